"""Training images changed at random: a part of the image in place of all of it, and the image mirrored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tl_jax.pictures import Picture

Pixels = npt.NDArray[np.uint8]

SCALE = (0.35, 1.0)  # of the area, that a part has
RATIO = (3 / 4, 4 / 3)  # of its width to its height
_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for an image: a part (Szegedy et al. 2015), and whether left and right change places.

    A pure function of the key (seed, step, number of the example): the same in whatever batch the example lies.
    """

    crop: bool = False
    flip: bool = False

    @classmethod
    def of(cls, name: str) -> Augmentation | None:
        """From the words of `--augment`: none, crop, flip, crop+flip."""
        parts = name.split("+")
        return None if name == "none" else cls("crop" in parts, "flip" in parts)

    def __call__(
        self, picture: Picture, processor: Any, whole: Callable[[], Pixels], key: tuple[int, int, int]
    ) -> Pixels:
        """Pixels uint8 [H, W, C] of a picture, changed: of a part of it as it came, or of `whole()`, all of it."""
        seed, step, example = key
        stream = np.random.Philox(key=np.array([seed, (step << 32) | example], np.uint64))
        draws = stream.random_raw(4 * _TRIES + 1).astype(np.float64) / 2.0**64
        if self.crop:
            height, width, _ = processor.shape
            image = picture.open(processor.mode)
            box = part(*image.size, draws[1:])
            pixels = np.asarray(image.resize((width, height), processor.resample, box=box)).reshape(processor.shape)
        else:
            pixels = whole()
        return pixels[:, ::-1] if self.flip and draws[0] < 0.5 else pixels


def part(width: int, height: int, draws: npt.NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part of an image, from draws between 0 and 1, four for each try.

    Its area is drawn between the bounds of `SCALE`, the logarithm of its ratio between those of `RATIO`. Where no try
    fits into the image it is the largest part in the middle whose ratio is within the bounds.
    """
    for area, ratio, left, top in draws.reshape(-1, 4):
        wanted = width * height * (SCALE[0] + area * (SCALE[1] - SCALE[0]))
        shape = math.exp(math.log(RATIO[0]) + ratio * math.log(RATIO[1] / RATIO[0]))
        w, h = round(math.sqrt(wanted * shape)), round(math.sqrt(wanted / shape))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return x, y, x + w, y + h
    w, h = min(width, max(1, round(height * RATIO[1]))), min(height, max(1, round(width / RATIO[0])))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h
