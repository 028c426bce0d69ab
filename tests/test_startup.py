"""What may not be loaded: nothing heavy by `import tl_jax` or by help, and never torch or tensorflow (law 12)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "scipy", "tokenizers", "matplotlib"}
FOREIGN = {"torch", "tensorflow", "transformers", "sklearn"}


def loaded(code: str) -> set[str]:
    """The top-level modules in a fresh Python after `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(process.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy() -> None:
    modules = loaded("import tl_jax")
    assert "tl_jax" in modules
    assert not modules & (HEAVY | FOREIGN | {"numpy"})


def test_the_probe_sees_what_is_loaded() -> None:
    assert "numpy" in loaded("import numpy")


@pytest.mark.parametrize("command", ["", "finetune", "evaluate", "predict"])
def test_help_loads_nothing_heavy(command: str) -> None:
    modules = loaded(
        f"from tl_jax.cli.main import main\ntry:\n    main([*{command!r}.split(), '--help'])\nexcept SystemExit: pass"
    )
    assert "tl_jax" in modules
    assert not modules & (HEAVY | FOREIGN | {"numpy"})


@pytest.mark.parametrize("line", ["finetune --learning_rate 1", "finetune --model x", "fintune", "evaluate"])
def test_a_mistake_is_answered_before_anything_heavy_loads(line: str) -> None:
    modules = loaded(f"from tl_jax.cli.main import main\nassert main({line.split()!r}) == 2")
    assert not modules & (HEAVY | FOREIGN | {"numpy"})


def test_names_are_found_lazily() -> None:
    assert not loaded("import tl_jax; tl_jax.Experiment, tl_jax.InputError, tl_jax.match") & (HEAVY | FOREIGN)
