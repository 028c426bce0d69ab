"""The heads tasks put on a model, as transformers puts them on the same config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_jax.models.families import FAMILIES, reads_images
from tl_jax.models.layers import head_stage
from tl_jax.stage import Stage

# What config.json calls the dropout below the last layer, by family; null or absent means the next. Of images there is
# none.
_DROPOUTS = ("seq_classif_dropout", "classifier_dropout", "hidden_dropout_prob")


def classifier(labels: int, config: Mapping[str, Any]) -> Stage:
    """The stage `head` of a classifier; its dropout and first values follow a raw config.json."""
    image = config.get("model_type") in FAMILIES and reads_images(config["model_type"])
    said = (config[key] for key in _DROPOUTS if not image and config.get(key) is not None)
    return head_stage(labels, float(next(said, 0.0)), float(config.get("initializer_range", 0.02)))
