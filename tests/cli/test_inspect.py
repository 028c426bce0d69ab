"""`tl-jax inspect`, on a folder of weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import Tiny
from tl_jax.cli.main import main


def test_tables_and_json(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny.pooler), "--pooling", "pooler"]) == 0
    out, err = capsys.readouterr()
    assert err == f"tl-jax: inspecting {tiny.pooler}; loading JAX\n"
    assert out.startswith("stage ") and "pooler/dense/kernel" in out and out.endswith(" bytes\n")
    assert main(["inspect", str(tiny.mean), "--format", "json"]) == 0
    chain = json.loads(capsys.readouterr().out)["chain"]
    assert chain[0]["name"] == "embeddings" and chain[0]["leaves"][0]["path"].startswith("embeddings/")


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is not a model: it holds no config.json" in capsys.readouterr().err
