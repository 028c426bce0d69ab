"""Frozen work done once, on MiniLM and real sentences: the losses are those of steps that compute everything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tl_jax as tl
from tests.conftest import some
from tests.laws.test_features import CACHED, losses


@pytest.mark.parametrize("method", some(CACHED))
def test_minilm_s_losses_do_not_know_the_cache(
    method: str, minilm: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs of 96 sentences, dropout on; in gradual unfreezing the first two are of frozen layers."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    lines = (data / "t_sst2" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:96]
    rows = [(line["text"], str(line["label"])) for line in map(json.loads, lines)]
    model = tl.load(minilm)
    for off in (False, True):
        out = tmp_path / str(off)
        tl.finetune(model, rows, method=method, epochs=3, batch_size=16, lr=1e-4, no_cache=off, out=out, quiet=True)
    found, expected = losses(tmp_path / "False"), losses(tmp_path / "True")
    assert len(found) == len(expected) > 0 and (tmp_path / "cache" / "features").is_dir()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
