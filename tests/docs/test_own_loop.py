"""The example of docs/own_loop.md, executed as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from tl_jax.groups import FROZEN
from tl_jax.training.flops import flops
from tl_jax.training.partition import combine, partition
from tl_jax.trees import by_path

FILE = Path(__file__).resolve().parents[2] / "docs" / "own_loop.md"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the example's names hold after it ran."""
    (code,) = re.findall(r"```python\n(.*?)```", FILE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "own_loop"}
    exec(compile(code, FILE.name, "exec"), names)
    return names


def test_the_example_trains_what_its_rules_say_and_nothing_else(names: dict[str, Any]) -> None:
    assert names["losses"][-1] < 0.5 * names["losses"][0]
    before, after = by_path(names["params"]), by_path(names["state"].params)
    frozen = {path for path, label in by_path(names["labels"]).items() if label is FROZEN}
    assert len(frozen) == 8 and len(before) == 14
    for path, leaf in before.items():
        assert (np.asarray(leaf).tobytes() == np.asarray(after[path]).tobytes()) == (path in frozen), path

    trained = sum(leaf.nbytes for path, leaf in before.items() if path not in frozen)
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(names["state"].opt_state) if leaf.ndim)
    assert moments == 2 * trained
    assert names["held"] < 0.5 * names["whole"]


def test_what_the_last_paragraph_says(names: dict[str, Any]) -> None:
    """Splitting first gives the same updates, and its cost does not come back when a norm is logged."""
    net, x, y, params, labels, tx = (names[name] for name in ("net", "x", "y", "params", "labels", "tx"))
    trainable, frozen = partition(params, labels)

    def loss(params: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(net.apply({"params": params}, x), y).mean()

    def full(params: Any) -> tuple[Any, Any]:
        grads = jax.grad(loss)(params)
        return partition(tx.update(grads, tx.init(params), params)[0], labels)[0], optax.tree.norm(grads)

    def half(trainable: Any) -> tuple[Any, Any]:
        grads = jax.grad(lambda part: loss(combine(part, frozen)))(trainable)
        return tx.update(grads, tx.init(trainable), trainable)[0], optax.tree.norm(grads)

    for a, b in zip(jax.tree.leaves(full(params)[0]), jax.tree.leaves(half(trainable)[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)
    unread = flops(lambda params: full(params)[0], params)
    assert flops(half, trainable) < 1.02 * unread
    assert flops(full, params) > 1.2 * unread
