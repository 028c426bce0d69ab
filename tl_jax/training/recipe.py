"""How to train, beside what: budget, optimiser, rate, precision. The numbers of an experiment, resolved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tl_jax.data import (
    Augmentation,
    BucketedBatches,
    Encoded,
    EncodedImages,
    Examples,
    ImageBatches,
    PackedBatches,
    TrainBatches,
)
from tl_jax.training import defaults
from tl_jax.training.optimizer import OptimizerSpec
from tl_jax.training.schedules import schedule


@dataclass(frozen=True)
class Recipe:
    """The settings of a fit; see `tl_jax.Experiment` for what each means. `rate` is the peak learning rate."""

    rate: float
    epochs: float | None
    steps: int | None
    batch_size: int
    accumulate: int
    optimizer: str
    schedule: str
    warmup: float | None
    weight_decay: float
    clip: float
    ema: float
    patience: int
    precision: str
    seed: int
    augment: str = "none"

    @property
    def spec(self) -> OptimizerSpec:
        """What of the optimiser is compiled in."""
        return OptimizerSpec(self.optimizer, self.clip or None)

    def size(self, train: Examples) -> int:
        """The examples of a batch, none larger than the data."""
        return min(self.batch_size, -(-len(train) // self.accumulate) * self.accumulate)

    def batches(
        self, train: Examples, pad: int, *, packs: bool = False, divisor: int = 1, like: TrainBatches | None = None
    ) -> TrainBatches:
        """The training batches; or those of the shapes of `like`, to share what is compiled.

        Where the model `packs`, several examples share a row if that costs less; the number of rows is then a multiple
        of `divisor`.
        """
        if isinstance(train, EncodedImages):
            size = self.size(train) if like is None else like.batch_size
            change = Augmentation.of(self.augment)
            return ImageBatches(train, size, self.seed, accumulate=self.accumulate, change=change)
        assert isinstance(train, Encoded)  # there are no others
        kwargs: dict[str, Any] = {"accumulate": self.accumulate, "pad": pad}
        if isinstance(like, PackedBatches):
            return PackedBatches(train, like.batch_size, self.seed, like=like, **kwargs)
        if like is not None:
            return BucketedBatches(train, like.batch_size, self.seed, lengths=like.lengths, **kwargs)
        size = self.size(train)
        bucketed = BucketedBatches(train, size, self.seed, **kwargs)
        if packs and PackedBatches(train, size, self.seed, **kwargs).cost < bucketed.cost:  # whatever the divisor
            return PackedBatches(train, size, self.seed, divisor=divisor, **kwargs)
        return bucketed

    def total(self, per_epoch: int) -> int:
        """The number of steps."""
        epochs = defaults.epochs(per_epoch) if self.epochs is None else self.epochs
        return self.steps or max(1, math.ceil(epochs * per_epoch))

    def hyper(self, rate: float) -> dict[str, np.float32]:
        """What a step takes beside state and batch: numbers, so that another value compiles nothing."""
        given = {"learning_rate": rate, "weight_decay": self.weight_decay}
        if self.ema:
            given["ema"] = self.ema
        return {name: np.float32(value) for name, value in given.items()}

    def rates(self, total: int) -> Callable[[int], float]:
        """The learning rate of each step."""
        return schedule(self.schedule, peak=self.rate, total=total, warmup=self.warmup)
