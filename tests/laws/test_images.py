"""The laws on a model of images, through the whole composition: 4, 7, 8, 9, 10, 11, and the features of any cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import tl_jax as tl
from tests import images as files
from tests.conftest import SEED, some
from tests.images import HEAD, METHODS, Seen
from tests.laws.test_compilations import compilations
from tests.parity import assert_close
from tests.tiny import digests, result
from tl_jax import data
from tl_jax.groups import FROZEN
from tl_jax.rules import paths
from tl_jax.training import interrupt
from tl_jax.training.evaluation import evaluate
from tl_jax.training.optimizer import OptimizerSpec, decay_labels
from tl_jax.training.state import create
from tl_jax.training.step import compiled_train_step
from tl_jax.trees import by_path

STEPPED = sorted(set(METHODS) - {"probe"})
DRAWN, STEPPED_DRAWN = sorted(METHODS)[SEED % len(METHODS)], STEPPED[SEED % len(STEPPED)]


def encoded(run: Any, count: int, order: np.ndarray | None = None) -> data.EncodedImages:
    images, labels = files.pictures(count, seed=7)
    order = np.arange(count) if order is None else order
    dataset = data.open({"image": images[order], "label": [labels[i] for i in order]}).only
    columns = data.infer_image_columns(dataset)
    examples = run._reading.labelled(dataset, columns, run.labels, lambda text: None)
    assert isinstance(examples, data.EncodedImages)
    return examples


# -- 4 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", some(METHODS, DRAWN))
def test_frozen_leaves_keep_their_bits_and_all_else_moves(
    method: str, seen: Seen, tuned_on_images: Callable[[str], Any]
) -> None:
    run = tuned_on_images(method)
    before, after = digests(run.plan.variables), digests(run.variables)
    frozen = {path for path, label in paths(run.plan.labels).items() if label is FROZEN}
    for path in after:
        assert (before[path] == after[path]) == (path in frozen), path
    loaded = digests(tl.load(seen.model)[1]["params"])
    assert all(loaded[path] == after[path] for path in frozen if not path.startswith("adapters"))


@pytest.mark.parametrize("method", some(["probe", "lp_ft", "full", "lora:rank=4"], "probe"))
def test_it_learns(method: str, tuned_on_images: Callable[[str], Any]) -> None:
    metrics = tuned_on_images(method).metrics
    assert metrics["accuracy"] > 0.8 and metrics["macro_f1"] > 0.8
    assert sum(row["support"] for row in metrics["per_class"].values()) == 45


# -- 7 and 10 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", some(METHODS, DRAWN))
def test_figures_and_answers_do_not_know_batch_size_or_order(
    method: str, tuned_on_images: Callable[[str], Any], rng: np.random.Generator
) -> None:
    run = tuned_on_images(method)
    whole, shuffled = encoded(run, 37), encoded(run, 37, rng.permutation(37))
    figures = [
        evaluate(run.model, run.task, run.variables, data.ImagePasses(examples, size), "float32")
        for examples, size in ((whole, 37), (whole, 8), (shuffled, 8))
    ]
    for other in figures[1:]:
        assert other["loss"] == pytest.approx(figures[0]["loss"], rel=1e-5)
        assert {k: v for k, v in other.items() if k != "loss"} == {k: v for k, v in figures[0].items() if k != "loss"}
    images = list(files.pictures(9, seed=3)[0])
    together = [list(found["probabilities"].values()) for found in run.predict(images, batch_size=4)]
    alone = [list(run.predict([image])[0]["probabilities"].values()) for image in images]
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize("method", some(STEPPED, STEPPED_DRAWN))
def test_accumulated_micro_batches_equal_the_joined_batch(method: str, tuned_on_images: Callable[[str], Any]) -> None:
    """In training mode, with dropout: it is keyed by example, not by row. The labels are wrong ones: the loss of right
    ones is a difference of nearly equal numbers."""
    run = tuned_on_images(method)
    labels, spec = decay_labels(run.plan.labels), OptimizerSpec()
    hyper = {"learning_rate": np.float32(0), "weight_decay": np.float32(0)}
    results = []
    for parts in (1, 4):
        examples = encoded(run, 15)
        examples = replace(examples, targets=(examples.targets + 1) % len(files.LABELS))
        batch = data.ImageBatches(examples, 16, 0, accumulate=parts).batch(0)
        state = create(run.variables, labels, spec.build(labels), jax.random.key(5))
        step = compiled_train_step(run.model, run.task.total_loss, spec, labels, accumulate=parts)
        state, metrics = step(state, batch, hyper)
        assert float(metrics["weight"]) == 15
        moments = {path: leaf for path, leaf in by_path(state.opt_state).items() if "/mu/" in path}
        results.append({"sums": {name: metrics[name] for name in ("loss_sum", "grad_norm")}, **moments})
    results = [{path: leaf for path, leaf in r.items() if not path.endswith("key/bias")} for r in results]  # rounding
    assert len(results[0]) > 2
    assert_close(results[1], results[0], 2e-5)


@pytest.mark.parametrize("size", [7, 64])
def test_every_image_is_evaluated_exactly_once(size: int, tuned_on_images: Callable[[str], Any]) -> None:
    seen: list[int] = []

    def note(outputs: Any, batch: Any) -> tuple[Any, Any]:
        seen.extend(batch["index"].tolist())
        return np.ones(len(batch["index"])), np.ones(len(batch["index"]))

    task = tl.tasks.ImageClassification(metrics={"one": note})
    run = tl.open_run(tuned_on_images("probe").folder, task=task, say=lambda text: None)
    images, labels = files.pictures(37, seed=7)
    metrics = run.evaluate({"image": images, "label": labels}, batch_size=size)
    assert sorted(seen) == list(range(37)) and metrics["one"] == 1


# -- 8 and 9 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["crop+flip"])
def test_a_run_that_was_stopped_ends_in_the_same_bits(
    augment: str, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """In another folder, from an empty cache, with what is drawn for every image."""
    changes = {"augment": augment, "no_cache": False}
    whole = files.tune(seen, tmp_path / "whole", "full", **changes)
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    asked = iter(range(1000))
    stop = int(rng.integers(3, 20))
    with monkeypatch.context() as patch:
        patch.setattr(interrupt.Interrupt, "requested", property(lambda self: next(asked) >= stop))
        with pytest.raises(tl.Interrupted, match="saved"):
            files.tune(seen, tmp_path / "cut", "full", **changes)
    files.tune(seen, tmp_path / "cut", "full", resume=True, **changes)
    assert result(tmp_path / "cut") == result(whole.folder)
    plain = files.tune(seen, tmp_path / "plain", "full")
    assert digests(plain.variables) != digests(whole.variables)


# -- 11 -----------------------------------------------------------------------------------------------------------


def test_numbers_compile_nothing(seen: Seen, tmp_path: Path) -> None:
    given: dict[str, Any] = {"lr": 1e-2, "epochs": 2}
    run = files.tune(seen, tmp_path / "first", HEAD, **given)
    assert run.summary["shapes_compiled"] == 1
    with compilations() as names:
        for i, change in enumerate(({"lr": 3e-3}, {"seed": 7}, {"steps": 17}, {"corrupt": "skip"})):
            files.tune(seen, tmp_path / str(i), HEAD, **{**given, **change})
    assert names == []


# -- features -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["probe:at=layers_1", "probe:at=norm", "last_layers:k=1"])
def test_features_of_any_cut_are_what_would_be_computed(method: str, seen: Seen, tmp_path: Path) -> None:
    kept = files.tune(seen, tmp_path / "kept", method, epochs=2, lr=1e-3)
    again = files.tune(seen, tmp_path / "again", method, epochs=2, lr=1e-3)  # from the disk
    assert digests(kept.variables) == digests(again.variables)
    computed = files.tune(seen, tmp_path / "computed", method, epochs=2, lr=1e-3, no_cache=True)
    ours, theirs = (paths(run.variables["params"]) for run in (kept, computed))
    rounding = {path for path in ours if path.endswith("key/bias")}  # its gradient is nothing else
    ours, theirs = ({p: leaf for p, leaf in found.items() if p not in rounding} for found in (ours, theirs))
    assert_close(ours, theirs, 1e-3)


def test_a_probe_chooses_among_all_cuts(seen: Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"data": seen.train, "eval_data": seen.test, **files.settings("probe:at=auto")}
    run = tl.finetune(seen.model, out=tmp_path / "run", **given)
    said = capsys.readouterr().err
    assert all(f"{cut} " in said for cut in ("layers_0", "layers_1", "norm", "pooler")) and "chosen: probe" in said
    assert run.metrics["accuracy"] > 0.8
    opened = tl.open_run(tmp_path / "run", say=lambda text: None)
    assert opened.evaluate()["accuracy"] == run.metrics["accuracy"]


@pytest.mark.parametrize("method", ["lp_ft", "last_layers:k=1"])
def test_augmentation_is_off_where_there_are_features_and_it_says_so(
    method: str, seen: Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"data": seen.train, **files.settings(method, epochs=2, augment="flip")}
    tl.finetune(seen.model, out=tmp_path / "run", **given)
    said = capsys.readouterr().err
    why = "the head is solved on the images as they are" if method == "lp_ft" else "steps start from features of"
    assert f"note: augmentation is off where {why}" in said
