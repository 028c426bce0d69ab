"""Batches of several examples a row, to train on and to pass over: one compiled shape, and almost no padding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tl_jax.data.batches import Passes, TrainBatches
from tl_jax.data.encoded import Batch, Encoded
from tl_jax.data.packing import Layout, best_fit, fitted, grid, layouts
from tl_jax.data.shuffling import permutations

Places = npt.NDArray[np.int64]


class PackedBatches(TrainBatches):
    """Several examples a row, all batches of one shape.

    The examples are cut by length into as many strata as a batch has examples, and each batch takes one of every
    stratum, drawn without replacement (stratified sampling). So all batches hold about as many tokens, and whichever
    example a stratum gives fits into the row where its longest does: the layout is made once, for the longest. With
    `accumulate`, neighbouring strata are in different micro-batches, so that those are alike. An epoch's last batch
    takes one example of every so many strata. The order of the batches is shuffled too.

    divisor: what the number of rows must be a multiple of. Which examples a batch has does not depend on it.
    like: batches of a larger data set, whose compiled shape these share where it suffices.
    """

    examples: Encoded

    def __init__(
        self,
        examples: Encoded,
        batch_size: int,
        seed: int,
        *,
        accumulate: int = 1,
        pad: int = 0,
        divisor: int = 1,
        like: PackedBatches | None = None,
    ) -> None:
        super().__init__(examples, batch_size, seed, accumulate=accumulate, pad=pad)
        full, more = divmod(len(examples), batch_size)
        # Which strata have one example more, for the last batch: evenly spread over the lengths.
        sizes = full + np.diff(np.arange(batch_size + 1) * more // batch_size)
        self._ends = np.cumsum(sizes)
        longest = np.where(sizes > 0, np.sort(examples.lengths)[self._ends - 1], 0)
        self.divisor: int = divisor if like is None else like.divisor
        found = None if like is None else fitted(longest, accumulate, self.divisor, like.layouts[0])
        self.layouts: list[Layout] = found or layouts(longest, accumulate, self.divisor)
        layout = self.layouts[0]
        shape = (len(layout.slots), layout.width)
        self.shapes = (shape if accumulate == 1 else (accumulate, *shape),)
        self.lengths = (layout.width,)
        steps = accumulate * self.steps_per_epoch
        self.padding = 1.0 - int(examples.offsets[-1]) / (steps * shape[0] * shape[1])
        self.cost = steps * layout.cost

    def _deal(self, epoch: int) -> list[Places]:
        """For each batch the place of the example of each stratum, -1 for none."""
        ties, order, shuffle = permutations((self.seed, epoch), *[len(self.examples)] * 2, self.steps_per_epoch)
        by_length = np.lexsort((ties, self.examples.lengths))
        rank = np.argsort(order)
        dealt = np.full((self.batch_size, self.steps_per_epoch), -1, np.int64)
        for stratum, places in enumerate(np.split(by_length, self._ends[:-1])):
            dealt[stratum, : len(places)] = places[np.argsort(rank[places])]
        return list(dealt.T[shuffle])

    def _batch(self, part: Places) -> Batch:
        parts = [
            self.examples.pack(np.where(layout.slots >= 0, part[layout.slots], -1), layout.width, pad=self.pad)
            for layout in self.layouts
        ]
        return parts[0] if self.accumulate == 1 else {key: np.stack([one[key] for one in parts]) for key in parts[0]}


class PackedPasses(Passes):
    """Every example exactly once, several a row, in batches of one shape; `index` says which slot is which.

    rows: of a batch, or as many more as make a multiple of `divisor`.
    width: positions of a row; where the longest example has more, as many as that takes.
    """

    examples: Encoded

    def __init__(self, examples: Encoded, rows: int, width: int, *, pad: int = 0, divisor: int = 1) -> None:
        super().__init__(examples, rows, pad=pad)
        self.width = max(width, -(-int(examples.lengths.max()) // 8) * 8)
        slots = -(-self.width // 8)  # by the width alone, so that sets share what is compiled
        filled = best_fit(examples.lengths, self.width, slots)
        height = -(-rows // divisor) * divisor
        count = -(-len(filled) // height)
        self._parts = list(grid(filled, (count * height, slots)).reshape(count, height, slots))
        self.shapes = ((height, self.width),)
        self.padding = 1.0 - int(examples.offsets[-1]) / (count * height * self.width)

    def _batch(self, part: Places) -> Batch:
        return self.examples.pack(part, self.width, pad=self.pad)
