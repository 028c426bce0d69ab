"""Laws 7 and 10 from texts to figures: how examples are batched is not seen in what comes out, and none is left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.conftest import SEED, some
from tests.parity import assert_close
from tests.tiny import METHODS
from tl_jax import data
from tl_jax.training.evaluation import evaluate
from tl_jax.training.examples import prepare
from tl_jax.training.optimizer import OptimizerSpec, decay_labels
from tl_jax.training.state import create
from tl_jax.training.step import compiled_train_step, inputs_of
from tl_jax.trees import by_path

DRAWN = sorted(METHODS)[SEED % len(METHODS)]
STEPPED = sorted(set(METHODS) - {"probe"})
STEPPED_DRAWN = STEPPED[SEED % len(STEPPED)]


def encoded(run: Any, rows: list[tuple[str, str]]) -> data.Encoded:
    dataset = data.open(rows)["train"]
    return prepare(dataset, data.infer_columns(dataset), run.labels, run.model.processor, 40).examples


def drawn_rows(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Messages of 1 to 30 words."""
    labels = rng.choice(list(files.TOPICS), count)
    return [(" ".join(rng.choice(files.WORDS[5:-4], rng.integers(1, 31))), str(label)) for label in labels]


@pytest.mark.parametrize("method", some(METHODS, DRAWN))
def test_figures_and_answers_do_not_know_batch_size_padding_or_order(
    method: str, tuned: Callable[[str], Any], rng: np.random.Generator
) -> None:
    run = tuned(method)
    rows = drawn_rows(rng, 37)
    whole = encoded(run, rows)
    shuffled = encoded(run, [rows[i] for i in rng.permutation(len(rows))])
    ways = (whole, 37, (40,)), (whole, 8, (16, 40)), (shuffled, 8, (16, 40))
    figures = []
    for examples, size, lengths in ways:
        batches = data.BucketedPasses(examples, size, lengths=lengths)
        figures.append(evaluate(run.model, run.task, run.variables, batches, "float32"))
    for other in figures[1:]:
        assert other["loss"] == pytest.approx(figures[0]["loss"], rel=1e-5)
        assert {k: v for k, v in other.items() if k != "loss"} == {k: v for k, v in figures[0].items() if k != "loss"}

    texts = [text for text, _ in rows]
    some = [list(found["probabilities"].values()) for found in run.predict(texts, batch_size=8)]
    alone = [list(run.predict([text])[0]["probabilities"].values()) for text in texts[:5]]
    np.testing.assert_allclose(alone, some[:5], atol=1e-5)


@pytest.mark.parametrize("method", some(STEPPED, STEPPED_DRAWN))
def test_the_gradient_does_not_know_batch_size_padding_order_or_packing(
    method: str, tuned: Callable[[str], Any], rng: np.random.Generator
) -> None:
    """The sums over an epoch of training batches, in evaluation mode, over all leaves."""
    run = tuned(method)
    rows = drawn_rows(rng, 40)
    ways = [
        data.BucketedBatches(encoded(run, rows), 40, 0),
        data.BucketedBatches(encoded(run, rows), 8, 1),
        data.PackedBatches(encoded(run, rows[::-1]), 8, 2),
    ]

    @jax.jit
    def gradient(variables: Any, batch: Any) -> Any:
        def loss(variables: Any) -> Any:
            return run.task.total_loss(run.model.apply(variables, inputs_of(batch)), batch)[0]

        value, gradient = jax.value_and_grad(loss)(variables)
        return {"loss": value, **gradient}

    sums = []
    for batches in ways:
        parts = [gradient(run.variables, batches.batch(i)) for i in range(batches.steps_per_epoch)]
        sums.append(jax.tree.map(lambda *leaves: np.sum([np.float64(leaf) for leaf in leaves], axis=0), *parts))
    for other in sums[1:]:
        assert_close(other, sums[0])


@pytest.mark.parametrize("method", some(STEPPED, STEPPED_DRAWN))
def test_accumulated_micro_batches_and_packed_rows_equal_the_joined_batch(
    method: str, tuned: Callable[[str], Any], rng: np.random.Generator
) -> None:
    """In training mode too, with dropout: it is keyed by example, not by row."""
    run = tuned(method)
    examples = encoded(run, files.messages(15))  # the last micro-batch has a row of padding
    labels = decay_labels(run.plan.labels)
    spec = OptimizerSpec()  # what the run was trained with, compiled already
    hyper = {"learning_rate": np.float32(0), "weight_decay": np.float32(0)}
    results = []
    for way, parts in ((data.BucketedBatches, 1), (data.BucketedBatches, 4), (data.PackedBatches, 1)):
        batch = way(examples, 16, 0, accumulate=parts).batch(0)
        state = create(run.variables, labels, spec.build(labels), jax.random.key(5))
        step = compiled_train_step(run.model, run.task.total_loss, spec, labels, accumulate=parts)
        state, metrics = step(state, batch, hyper)
        assert float(metrics["weight"]) == 15
        # Adam's first moments are the gradient, clipped and times a constant.
        moments = {path: leaf for path, leaf in by_path(state.opt_state).items() if "/mu/" in path}
        results.append({"sums": {name: metrics[name] for name in ("loss_sum", "grad_norm")}, **moments})
    results = [{path: leaf for path, leaf in r.items() if not path.endswith("key/bias")} for r in results]  # rounding
    assert len(results[0]) > 2
    for other in results[1:]:
        assert_close(other, results[0], 2e-5)


@cache
def recorder() -> tuple[Any, list[int]]:
    """A metric that writes down which examples it was given."""
    seen: list[int] = []

    def note(outputs: Any, batch: Any) -> tuple[Any, Any]:
        seen.extend(batch["index"].tolist())
        assert len(outputs["logits"]) == len(batch["index"])
        return np.ones(len(batch["index"])), np.ones(len(batch["index"]))

    return note, seen


@pytest.mark.parametrize("size", [7, 64])
def test_every_example_is_evaluated_exactly_once(
    size: int, tuned: Callable[[str], Any], rng: np.random.Generator
) -> None:
    note, seen = recorder()
    seen.clear()
    run = tl.open_run(tuned("probe").folder, task=tl.tasks.TextClassification(metrics={"one": note}))
    metrics = run.evaluate(drawn_rows(rng, 37), batch_size=size)
    assert sorted(seen) == list(range(37)) and metrics["one"] == 1
    assert sum(row["support"] for row in metrics["per_class"].values()) == 37
