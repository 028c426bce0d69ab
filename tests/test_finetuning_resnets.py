"""A CIFAR ResNet that came as a file: tuned, asked, opened again and taken out, its statistics along with it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests import images as files
from tests.models import resnets
from tests.tiny import digests
from tl_jax.rules import paths

RAW = {
    "model_type": "cifar_resnet",
    "stem": "cifar",
    "shortcut": "padding",
    "layer_type": "basic",
    "num_channels": 3,
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 2],
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    path = tmp_path_factory.mktemp("resnet") / "net.th"
    torch.save({"state_dict": resnets.of_torch(RAW, 0).state_dict()}, path)
    return path


def tune(net: Path, out: Path, method: str, **settings: Any) -> Any:
    (train, labels), (test, others) = files.pictures(90), files.pictures(30, seed=1)
    data = {"train": {"image": list(train), "label": labels}, "test": {"image": list(test), "label": others}}
    given = {"epochs": 4, "batch_size": 15, "lr": 5e-3, "quiet": True, "overwrite": True}
    return tl.finetune(net, data, method=method, out=out, **(given | settings))


@pytest.fixture(scope="module")
def tuned(net: Path) -> Any:
    return cache(lambda method: tune(net, net.parent / method.replace(":", "-"), method))


@pytest.mark.parametrize("method", ["probe", "last_layers:k=1", "full"])
def test_statistics_move_where_something_trains(method: str, net: Path, tuned: Any) -> None:
    run = tuned(method)
    before, after = digests(tl.load(net)[1]), digests(run.variables)
    below = {"probe": 3, "last_layers:k=1": 2, "full": 0}[method]
    for path in paths(run.variables["batch_stats"]):
        place = run.model.names.index(path.partition("/")[0])
        moved = before[f"batch_stats/{path}"] != after[f"batch_stats/{path}"]
        assert moved == (method != "probe" and place > below if below else True), path


@pytest.mark.parametrize("method", ["probe", "last_layers:k=1", "full"])
def test_a_run_opens_and_is_taken_out(method: str, tuned: Any, tmp_path: Path) -> None:
    run = tuned(method)
    images = list(files.pictures(6, seed=3)[0])
    again = tl.open_run(run.folder, say=lambda text: None)
    assert digests(again.variables) == digests(run.variables) and again.predict(images) == run.predict(images)
    folder = run.export(tmp_path / "out")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert 'library_name: "tl_jax"' in card and "transformers" not in card  # which has no class of it
    model, variables = tl.load(folder)
    assert digests(variables) == digests(run.variables) and model.info.labels == run.labels
    logits = model.apply(variables, model.processor(images))["logits"]
    assert [run.labels[i] for i in np.argmax(logits, -1)] == [answer["label"] for answer in run.predict(images)]


def test_what_is_frozen_is_computed_once(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With features of the cut and without, the same losses: what lies below is in evaluation mode either way."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))

    def losses(name: str, **settings: Any) -> list[float]:
        run = tune(net, tmp_path / name, "last_layers:k=1", **settings)
        lines = (run.folder / "metrics.jsonl").read_text().splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]

    np.testing.assert_allclose(losses("cached"), losses("plain", no_cache=True), rtol=1e-6)
    assert list((tmp_path / "cache").rglob("*")), "nothing was cached"


def test_it_learns(tuned: Any) -> None:
    assert tuned("full").metrics["accuracy"] > 0.6
