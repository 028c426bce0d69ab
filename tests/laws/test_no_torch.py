"""Law 12: torch and tensorflow are never loaded by a text run, even where they are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests import tiny as files
from tests.tiny import Tiny

SCRIPT = """
import contextlib, io, json, sys
from tl_jax.cli.main import main
commands, out = json.loads(sys.argv[1]), io.StringIO()
for command in commands:
    with contextlib.redirect_stdout(out):
        assert main(command) == 0, command
import tl_jax
tl_jax.open_run(commands[0][-1]).export(commands[0][-1] + "-exported")
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_full_text_run_loads_neither_torch_nor_tensorflow(tiny: Tiny, tmp_path: Path) -> None:
    assert find_spec("torch") and find_spec("transformers")  # the law is about where they are installed
    out = str(tmp_path / "run")
    train = ["finetune", "--model", str(tiny.mean), "--data", str(tiny.train), *files.flags("lora:rank=4", epochs=1)]
    commands = [
        [*train, "--out", out],
        ["predict", out, "where is my parcel"],
        ["evaluate", out, "--data", str(tiny.test)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        env=files.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"tl_jax", "jax", "orbax", "tokenizers"} <= modules
    assert not modules & {"torch", "tensorflow", "transformers", "sklearn", "peft"}
