"""One label for each image: what is on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from tl_jax.model import Model
from tl_jax.tasks.classification import Classification


@dataclass(frozen=True)
class ImageClassification(Classification):
    """Classify images into `labels`; the attributes are those of `Classification`."""

    name: ClassVar[str] = "image_classification"
    reads: ClassVar[str] = "image"
    pooling: ClassVar[str] = "classifier"

    def attach(self, model: Model) -> Model:
        """As `Classification.attach`; a network of somebody's own learns of its processor how large images are."""
        if model.info.example is None and hasattr(model.processor, "shape"):
            example = {"image": jax.ShapeDtypeStruct((1, *model.processor.shape), jnp.float32)}
            model = replace(model, info=replace(model.info, example=example))
        return super().attach(model)
