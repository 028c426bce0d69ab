"""What a model of images is asked when it is verified: a picture, through the checkpoint's own processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax.model import Model
from tl_jax.models.families import family
from tl_jax.pretrained.image_processor import ImageProcessor
from tl_jax.verification.verdict import TOLERANCE, Checked, difference

PROCESSOR = "processor"
HEADS = {"cls": "AutoModelForImageClassification", "pooler": "AutoModelForImageClassification"}
_HEIGHT, _WIDTH = 48, 64  # no square, so that sides which are taken for each other show


def picture(channels: int) -> np.ndarray:
    """uint8 `[48, 64, channels]`, or `[48, 64]` for one: edges and slopes, the same bytes everywhere."""
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    drawn = np.stack([3 * x + y * y // 5, x * y // 3, 5 * (x ^ y), 255 - y], axis=-1)[..., :channels]
    return (drawn % 256).astype(np.uint8)[..., 0 if channels == 1 else slice(None)]


def batch(model: Model) -> dict[str, np.ndarray]:
    """`{"image": float32 [1, H, W, C]}`: the picture, or drawn numbers in the config's size without a processor."""
    processor = model.info.processor
    if isinstance(processor, ImageProcessor):
        return dict(processor([picture(processor.channels)]))
    shape = family(model.info.family).CONFIG(model.info.config).image_shape
    return {"image": np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)}


def given(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch under transformers' name, channels first."""
    return {"pixel_values": np.moveaxis(batch["image"], -1, 1)}


def asked(model: Model) -> dict[str, Any]:
    """What transformers' image processor is asked: the picture."""
    processor = model.info.processor
    return {"picture": picture(processor.channels).tolist()} if isinstance(processor, ImageProcessor) else {}


def prepared(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the processor made of the picture."""
    return batch["image"]


def compared(ours: Sequence[Any], theirs: Sequence[Any], where: str) -> Checked:
    """How far apart two processors are."""
    a, b = np.asarray(ours), np.asarray(theirs)
    if a.shape != b.shape:
        mine, other = [" × ".join(map(str, array.shape[1:])) for array in (a, b)]
        return Checked(PROCESSOR, "image", faults=(f"a picture becomes {mine}, and {other} {where}",))
    return Checked(PROCESSOR, "image", difference(a, b), TOLERANCE)
