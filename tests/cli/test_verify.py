"""`tl-jax verify`: what it prints, and its exit codes; what it finds is tested in `tests/verification/`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import Tiny
from tl_jax.cli import verify as command
from tl_jax.cli.main import main
from tl_jax.pretrained import weights
from tl_jax.pretrained.safetensors_files import SINGLE, write
from tl_jax.verification.checking import AGAINST

STRUCTURE = ["--against", "structure"]


def test_tables_and_json(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny.mean), *STRUCTURE]) == 0
    out, err = capsys.readouterr()
    assert err == f"tl-jax: verifying {tiny.mean}; loading JAX\n"
    assert out.startswith("stage ") and "\nlayers_1 " in out and "structure only: " in out.splitlines()[-1]
    assert main(["verify", str(tiny.pooler), *STRUCTURE, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["against"], found["stages"][-1]["name"]) == (True, "structure", "pooler")


def test_a_model_that_is_off_ends_in_2_and_the_stage_is_named(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny.mean, tmp_path / "model"))
    tensors = dict(weights.read(folder))
    tensors["encoder.layer.0.output.dense.bias"][3] = np.inf
    write(folder / SINGLE, tensors)
    assert main(["verify", str(folder), *STRUCTURE]) == 2
    out, err = capsys.readouterr()
    assert "off" in next(line for line in out.splitlines() if line.startswith("layers_0"))
    said = "layers_0/mlp/down/bias holds 1 numbers that are NaN or infinite"
    assert err.endswith(f"error: layers_0 is the first stage that is off: {said}\n")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--against", "gold"], "--against: 'gold' is not known; did you mean 'golden'?"),
        (["--against", "golden"], "holds no certificate (verification.json)"),
        (["--pooling", "meen"], "unknown pooling 'meen'; did you mean 'mean'?"),
    ],
)
def test_mistakes(tiny: Tiny, capsys: pytest.CaptureFixture[str], flags: list[str], said: str) -> None:
    before = sorted(tiny.mean.iterdir())
    assert main(["verify", str(tiny.mean), *flags]) == 2
    assert said in capsys.readouterr().err
    assert sorted(tiny.mean.iterdir()) == before


def test_the_words_of_help_are_those_of_the_room() -> None:
    assert command.AGAINST == AGAINST
