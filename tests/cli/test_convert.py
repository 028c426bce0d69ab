"""`tl-jax convert`: weights through another folder, and back by the commands alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tl_jax as tl
from tests.tiny import Tiny
from tl_jax.cli.main import main
from tl_jax.rules import paths


def test_the_same_weights_in_shards_and_back(tiny: Tiny, tmp_path: Path) -> None:
    parts, again = tmp_path / "parts", tmp_path / "again"
    assert main(["convert", str(tiny.mean), str(parts), "--max-shard-size", "20KB"]) == 0
    assert len(list(parts.glob("model-*-of-*.safetensors"))) > 1
    assert main(["convert", str(parts), str(again)]) == 0
    assert (again / "model.safetensors").read_bytes() == (tiny.mean / "model.safetensors").read_bytes()
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in tiny.mean.iterdir())


def test_another_dtype(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half"
    assert main(["convert", str(tiny.mean), str(half), "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out == f"{half}\n"
    config = json.loads((half / "config.json").read_text())
    assert "bfloat16" in (config.get("dtype"), config.get("torch_dtype"))
    leaves, halved = (paths(tl.load(folder)[1]) for folder in (tiny.mean, half))
    for path, leaf in leaves.items():
        assert str(halved[path].dtype) == "bfloat16"
        np.testing.assert_allclose(halved[path].astype(np.float32), leaf, rtol=2**-8)


def test_a_folder_that_cannot_be_made(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["convert", str(tiny.mean), str(tmp_path / "file" / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {tmp_path}/file/out was not written: ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--dtype", "float3"], "error: unknown dtype 'float3'; did you mean 'float32'"),
        (["--max-shard-size", "much"], "error: max_shard_size must be a number of bytes or like '5GB', not 'much'"),
        (["--pooling", "meen"], "error: unknown pooling 'meen'; did you mean 'mean'?"),
    ],
)
def test_mistakes_leave_nothing(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert main(["convert", str(tiny.mean), str(tmp_path / "out"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
