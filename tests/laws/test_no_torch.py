"""Law 12: torch and tensorflow are never loaded by a run on texts or images, even where they compute beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import images
from tests import tiny as files
from tests.images import Seen
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
if sys.argv[2] == "texts":
    verified = tl_jax.verify(commands[0][-1] + "-exported")
    assert verified.passed and verified.against == "reference", verified
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def commands_on(kind: str, tiny: Tiny, seen: Seen, out: str) -> list[list[str]]:
    """Fine-tune, ask and score."""
    if kind == "texts":
        train = ["--model", str(tiny.mean), "--data", str(tiny.train), *files.flags("lora:rank=4", epochs=1)]
        asked, test = "where is my parcel", tiny.test
    else:
        train = ["--model", str(seen.model), "--data", str(seen.train), *images.flags("lora:rank=4", epochs=1)]
        asked, test = str(seen.train), seen.test
    return [
        ["finetune", *train, "--out", out],
        ["predict", out, asked],
        ["evaluate", out, "--data", str(test)],
    ]


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_a_full_run_loads_neither_torch_nor_tensorflow(kind: str, tiny: Tiny, seen: Seen, tmp_path: Path) -> None:
    assert find_spec("torch") and find_spec("transformers")  # the law is about where they are installed
    commands = commands_on(kind, tiny, seen, str(tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands), kind],
        env=files.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"tl_jax", "jax", "orbax", "tokenizers" if kind == "texts" else "PIL"} <= modules
    assert not modules & {"torch", "tensorflow", "transformers", "sklearn", "peft"}
