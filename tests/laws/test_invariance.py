"""Law 7 at the model: neither loss nor gradient knows of padding, order, batch size or packing; nor does dropout."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chains
from tests.parity import assert_close

LENGTHS = (5, 3, 4, 1, 2)
KEYS = ("tokens", "token_type", "positions", "noise")


def examples(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Ragged examples, each with what belongs to its positions, and a label."""
    return [
        {
            "tokens": rng.integers(1, chains.VOCABULARY, length),
            "token_type": rng.integers(0, 2, length),
            "positions": np.arange(length),
            "noise": rng.integers(0, 2**32, length, np.uint32),
            "label": int(rng.integers(chains.LABELS)),
        }
        for length in LENGTHS
    ]


def padded(chosen: list[dict[str, Any]], rows: int, length: int) -> tuple[dict[str, Any], Any, Any]:
    """One example a row, the rest pure padding: (state, labels, weights)."""
    state = {key: np.zeros((rows, length), np.uint32 if key == "noise" else np.int32) for key in KEYS}
    state["segments"] = np.zeros((rows, length), np.int32)
    for row, example in enumerate(chosen):
        n = len(example["tokens"])
        for key in KEYS:
            state[key][row, :n] = example[key]
        state["segments"][row, :n] = 1
    labels = np.asarray([example["label"] for example in chosen] + [0] * (rows - len(chosen)))
    return state | {"mask": state["segments"] > 0}, labels, np.arange(rows) < len(chosen)


def packed(chosen: list[dict[str, Any]], bins: list[list[int]], length: int) -> tuple[dict[str, Any], Any, Any]:
    """Several examples a row; `starts` says where each lies. An empty slot has weight 0."""
    state = {key: np.zeros((len(bins), length), np.uint32 if key == "noise" else np.int32) for key in KEYS}
    state["segments"] = np.zeros((len(bins), length), np.int32)
    slots = max(map(len, bins))
    starts, labels = np.zeros((2, len(bins), slots), np.int32)
    real = np.zeros((len(bins), slots), bool)
    for row, members in enumerate(bins):
        at = 0
        for segment, member in enumerate(members, 1):
            n = len(chosen[member]["tokens"])
            for key in KEYS:
                state[key][row, at : at + n] = chosen[member][key]
            state["segments"][row, at : at + n] = segment
            starts[row, segment - 1], real[row, segment - 1] = at, True
            labels[row, segment - 1] = chosen[member]["label"]
            at += n
    return state | {"starts": starts, "mask": state["segments"] > 0}, labels.ravel(), real.ravel()


@pytest.mark.parametrize(
    ("chain", "mode", "pooling"),
    [
        (chains.bert, "evaluation", "mean"),
        (chains.bert, "training", "pooler"),
        (chains.roberta, "training", "pooler"),
        (chains.distilbert, "training", "pooler"),
        (chains.llama, "training", "last"),
        (chains.llama, "evaluation", "mean"),
    ],
)
def test_loss_and_gradient_do_not_know_the_layout(chain, mode, pooling, rng, seed):
    model = chain(pooling, num_hidden_layers=1)
    params = chains.variables(model, rng)["params"]
    options = {"train_from": "embeddings", "key": jax.random.key(seed)} if mode == "training" else {}

    @jax.jit
    def run(params, state, labels, weights):
        def loss(params):
            logits = model.apply({"params": params}, state, **options)["logits"]
            return -(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels] * weights).sum()

        value, gradient = jax.value_and_grad(loss)(params)
        return {"loss": value, **gradient}

    chosen = examples(rng)
    whole = run(params, *padded(chosen, 5, 5))

    order = rng.permutation(5)
    assert_close(run(params, *padded([chosen[i] for i in order], 5, 5)), whole)
    assert_close(run(params, *padded(chosen, 7, 9)), whole)
    halves = [run(params, *padded(part, 5, 5)) for part in (chosen[:3], chosen[3:])]
    assert_close(jax.tree.map(jnp.add, *halves), whole)
    assert_close(run(params, *packed(chosen, [[3, 0, 4], [2, 1]], 9)), whole)


def test_dropout_is_on_in_training(rng, seed):
    """Were it off, the law above would say nothing of noise: another noise gives other logits."""
    model = chains.bert(num_hidden_layers=1)
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    run = jax.jit(lambda s: model.apply(variables, s, train_from="embeddings", key=jax.random.key(seed))["logits"])
    before, after = run(inputs), run(inputs | {"noise": inputs["noise"] + np.uint32(1)})
    assert (np.abs(before - after).max(-1) > 1e-3).all()
