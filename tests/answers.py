"""What a run answers, and whether two answers are the same to rounding."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax

import tl_jax as tl

TEXTS = ["my parcel is late", "i was charged twice", ""]


def lines(run: Any, event: str) -> list[dict[str, Any]]:
    """The lines of a kind in a run's metrics.jsonl."""
    read = map(json.loads, (Path(run.folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in read if line["event"] == event]


def close(a: Any, b: Any, tolerance: float = 1e-6) -> bool:
    """Whether two nested results agree: numbers to rounding, all else exactly."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(close(one, other, tolerance) for one, other in zip(a, b, strict=True))
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) if isinstance(a, float) else a == b


@partial(jax.jit, static_argnames="model")
def logits(model: tl.Model, variables: Any, inputs: Any) -> jax.Array:
    return model.apply(variables, inputs)["logits"]


def probabilities(model: tl.Model, variables: Any, texts: list[str]) -> jax.Array:
    """Of the classes, from the model alone."""
    inputs = model.processor([*texts, "padding " * 14])  # always of the same length
    return jax.nn.softmax(logits(model, variables, inputs))[: len(texts)]
