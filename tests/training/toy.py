"""Batches, losses and trees for the tests of training, over the toy chains of `tests.chains`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

from tests import chains
from tl_jax.model import Model
from tl_jax.rules import match


def start(model: Model, rng: np.random.Generator) -> dict[str, Any]:
    """Numpy variables, as a loader gives them."""
    return jax.tree.map(np.array, chains.variables(model, rng))


def label(variables: dict[str, Any], rules: Any) -> Any:
    return match(rules, {name: tree for name, tree in variables.items() if name != "batch_stats"})


def batch(model: Model, rng: np.random.Generator, rows: int = 4, length: int = 5) -> dict[str, np.ndarray]:
    inputs = chains.image(rng, rows) if "image" in model.inputs else chains.text(rng, rows, length)
    return {
        **inputs,
        "targets": rng.integers(0, chains.LABELS, rows).astype(np.int32),
        "weights": np.ones(rows, np.float32),
    }


def loss(outputs: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy; of the first position where there are logits for each."""
    logits = outputs["logits"]
    logits = logits[:, 0] if logits.ndim == 3 else logits
    each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return (each * batch["weights"]).sum(), batch["weights"].sum()


def hyper(rate: float = 1e-2, decay: float = 0.0) -> dict[str, np.float32]:
    return {"learning_rate": np.float32(rate), "weight_decay": np.float32(decay)}


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def close(a: Any, b: Any, tolerance: float) -> None:
    """Every leaf within `tolerance` of the other's largest value."""
    for path, x in jax.tree_util.tree_leaves_with_path(a):
        y = dict(jax.tree_util.tree_leaves_with_path(b))[path]
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max() <= tolerance * max(np.abs(y).max(), 1e-30), jax.tree_util.keystr(path)
