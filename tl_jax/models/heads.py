"""The heads tasks put on a model, as transformers puts them on the same config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_jax.model import Stage
from tl_jax.models.layers import head_stage


def classifier(labels: int, config: Mapping[str, Any]) -> Stage:
    """The stage `head` of a classifier; its dropout and first values follow a raw config.json."""
    dropout = config.get("classifier_dropout")
    if dropout is None:
        dropout = config.get("hidden_dropout_prob", 0.0)
    return head_stage(labels, float(dropout), float(config.get("initializer_range", 0.02)))
