"""Batches of images: all of one shape, so there is nothing to pad but a last batch, and nothing to pack."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tl_jax.data.augmentation import Augmentation
from tl_jax.data.batches import Passes, TrainBatches
from tl_jax.data.encoded import Batch, micro_batches
from tl_jax.data.encoded_images import EncodedImages
from tl_jax.data.shuffling import permutations

Places = npt.NDArray[np.int64]


class ImageBatches(TrainBatches):
    """Shuffled batches of images, one of them an epoch perhaps short; `change` says what is drawn for each image."""

    examples: EncodedImages

    def __init__(
        self,
        examples: EncodedImages,
        batch_size: int,
        seed: int,
        *,
        accumulate: int = 1,
        change: Augmentation | None = None,
    ) -> None:
        super().__init__(examples, batch_size, seed, accumulate=accumulate)
        self.change = change
        rows = (batch_size,) if accumulate == 1 else (accumulate, batch_size // accumulate)
        self.shapes = ((*rows, *examples.shape),)
        self.lengths = ()
        self.padding = 1.0 - len(examples) / (batch_size * self.steps_per_epoch)
        self.cost = float(batch_size * self.steps_per_epoch)

    @property
    def rows(self) -> int:
        return self.shapes[-1][-4]

    @property
    def described(self) -> str:
        return f"{self.batch_size} images of {' × '.join(map(str, self.examples.shape[:2]))}"

    def _deal(self, epoch: int) -> list[tuple[int, Places]]:
        """For each batch its step and the places of its examples."""
        (order,) = permutations((self.seed, epoch), len(self.examples))
        first = epoch * self.steps_per_epoch
        return [
            (first + i, order[i * self.batch_size : (i + 1) * self.batch_size]) for i in range(self.steps_per_epoch)
        ]

    def _batch(self, part: tuple[int, Places]) -> Batch:
        step, places = part
        batch = self.examples.batch(places, self.batch_size, self.change, (self.seed, step))
        return batch if self.accumulate == 1 else micro_batches(batch, self.accumulate)


class ImagePasses(Passes):
    """Every image exactly once, in the order of the data set."""

    examples: EncodedImages

    def __init__(self, examples: EncodedImages, rows: int) -> None:
        super().__init__(examples, rows)
        self.rows = rows
        self._parts = [np.arange(i, min(i + rows, len(examples))) for i in range(0, len(examples), rows)]
        self.shapes = ((rows, *examples.shape),)
        self.padding = 1.0 - len(examples) / (rows * len(self._parts))

    def _batch(self, part: Places) -> Batch:
        return self.examples.batch(part, self.rows)
