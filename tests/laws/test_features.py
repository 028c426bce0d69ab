"""Frozen work done once changes nothing but rounding; and nothing at all whether it was done before or is done now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.tiny import Tiny
from tl_jax.pretrained import OwnTokenizer
from tl_jax.training import prefixes

CACHED = ["probe", "last_layers:k=1", "lp_ft", "gradual_unfreezing"]


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        line["loss"] if "loss" in line else line["metrics"]["loss"] for line in lines if {"loss", "metrics"} & {*line}
    ]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cut of each pass that computes features."""
    made: list[str] = []
    original = prefixes.Prefixes._fill

    def counted(self: Any, cut: str, *rest: Any) -> None:
        made.append(cut)
        original(self, cut, *rest)

    monkeypatch.setattr(prefixes.Prefixes, "_fill", counted)
    return made


@pytest.mark.parametrize("method", CACHED)
def test_losses_agree_with_those_of_steps_that_compute_everything(
    method: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[str]
) -> None:
    """Dropout on; the early phases of gradual unfreezing, one epoch each, share features."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    settings = {"epochs": 4}
    plain = files.tune(tiny, tmp_path / "plain", method, no_cache=True, **settings)
    assert not (tmp_path / "cache").exists() and passes == (["head"] if method in ("probe", "lp_ft") else [])
    passes.clear()
    files.tune(tiny, tmp_path / "cached", method, **settings)
    found, expected = losses(tmp_path / "cached"), losses(tmp_path / "plain")
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert passes, "nothing was cached"
    # Done before or now: the same bits.
    passes.clear()
    files.tune(tiny, tmp_path / "again", method, **settings)
    assert passes == [] and files.result(tmp_path / "again") == files.result(tmp_path / "cached")
    summary = json.loads((tmp_path / "cached" / "summary.json").read_text(encoding="utf-8"))
    assert summary["metrics"]["loss"] == pytest.approx(plain.summary["metrics"]["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("last_layers:k=1", {"epochs": 2}, "; what is frozen below layers_1 is computed once"),
        ("last_layers:k=1", {"epochs": 1}, "; what is frozen below layers_1 is computed in every step: one pass, or"),
        ("last_layers:k=1", {"epochs": 2, "no_cache": True}, "is computed in every step: one pass, or --no-cache"),
        ("gradual_unfreezing", {"epochs": 4}, "; what is frozen below layers_1 is computed once"),
        ("lora:rank=2", {"epochs": 2}, ""),  # nothing but embeddings lies below
        ("full", {"epochs": 2}, ""),
    ],
)
def test_the_plan_says_whether_it_is_done_once(method: str, changes: Any, said: str, tiny: Tiny) -> None:
    table = tl.finetune(tiny.mean, tiny.train, method=method, dry_run=True, quiet=True, **changes)
    assert said in table and ("frozen below" in table) == bool(said)


def test_what_features_depend_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[str]
) -> None:
    """Another seed, rate or head shares them; other weights, texts, lengths or precision do not."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))

    def computed(**changes: Any) -> int:
        passes.clear()
        given = {"model": tiny.mean, "data": tiny.train, "eval_data": tiny.test, "method": "probe", **changes}
        tl.finetune(**given, out=tmp_path / "run", overwrite=True, quiet=True)
        return len(passes)

    assert computed() == 3  # training, validation and evaluation
    assert computed(seed=1) == computed(method="probe:C=10") == computed(method="lp_ft", epochs=1) == 0
    assert computed(eval_data=tiny.train) == 1  # all of it: neither the part that trained nor the one held out
    assert computed(max_length=9) == 3
    assert computed(precision="bfloat16") == 3
    assert computed(model=files.write_bert(tmp_path / "other", pooling="mean", seed=5)) == 3
    assert computed(method="last_layers:k=1", epochs=2) == 2  # of another cut, to train and to validate
    assert computed(batch_size=8) == 3  # of other shapes, which may round otherwise


def network(params: Any, tokens: Any, mask: Any) -> Any:
    """The mean of token vectors."""
    vectors = params["table"][tokens] * mask[..., None]
    return vectors.sum(1) / jnp.maximum(mask.sum(1, keepdims=True), 1)


def test_of_somebody_s_own_network_nothing_is_left_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[str], rng: np.random.Generator
) -> None:
    """Nothing tells that its code is the same tomorrow; in memory its features serve all steps."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    variables = {"params": {"table": rng.normal(size=(40, 8)).astype(np.float32)}}
    texts = OwnTokenizer(lambda text: [1 + len(word) % 30 for word in text.split()], max_length=20)
    model = tl.Model.from_function(network, variables, writes="pooled", processor=texts)
    given = {"method": "last_layers:k=0", "epochs": 3, "batch_size": 16, "quiet": True}
    for off in (False, True):
        tl.finetune((model, variables), files.messages(60), out=tmp_path / str(off), no_cache=off, **given)
    assert passes == ["head", "head"] and not (tmp_path / "cache").exists()
    np.testing.assert_allclose(losses(tmp_path / "False"), losses(tmp_path / "True"), rtol=1e-6)
