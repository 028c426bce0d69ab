"""Batches as a pure function of (seed, step) for training, and each example once for evaluation."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tl_jax.data.encoded import Batch, Encoded, Examples, micro_batches
from tl_jax.data.lengths import bucket_lengths
from tl_jax.data.packing import row_cost
from tl_jax.data.shuffling import check_seed, permutations
from tl_jax.errors import InputError

Places = npt.NDArray[np.int64]


class _Part(NamedTuple):
    """The examples of one batch and the length they are padded to."""

    places: Places
    length: int


class TrainBatches(ABC):
    """Shuffled training batches of few shapes; `batch(step)` depends on the seed and the step alone.

    Each epoch sees each example exactly once, in an order drawn by a counter-based generator keyed by (seed, epoch).

    examples: what to train on, at least one.
    batch_size: examples a step, all micro-batches together; only the last batch of an epoch can have fewer.
    accumulate: micro-batches a step. Above 1 every array of a batch is [accumulate, …].
    pad: the token id of padding.

    Raises InputError without examples, for sizes that are not positive, for a batch size that `accumulate` does not
    divide (naming the nearest that it does), and for a bad seed.
    """

    shapes: tuple[tuple[int, ...], ...]
    """The shapes of `tokens`, fixed by the lengths in the data set, smallest first; or that of `image`."""
    lengths: tuple[int, ...]
    """The lengths of `shapes`, or those that were given; images have none."""
    padding: float
    """The share of all positions of an epoch that is padding, rows of pure padding included."""
    cost: float
    """What an epoch costs, in positions (see `packing.row_cost`)."""

    def __init__(self, examples: Examples, batch_size: int, seed: int, *, accumulate: int = 1, pad: int = 0) -> None:
        _check(examples, batch_size, accumulate)
        self.examples: Examples = examples
        self.batch_size = batch_size
        self.seed = check_seed(seed)
        self.accumulate = accumulate
        self.pad = pad
        self.steps_per_epoch = -(-len(examples) // batch_size)
        self._epoch = lru_cache(maxsize=2)(self._deal)

    def batch(self, step: int) -> Batch:
        """The batch of global step `step` (0 is the first); see `accumulate`."""
        if step < 0:
            raise IndexError(f"there is no step {step}")
        epoch, at = divmod(step, self.steps_per_epoch)
        return self._batch(self._epoch(epoch)[at])

    def of(self, examples: Examples) -> TrainBatches:
        """The same batches of the same examples, which have features now."""
        same = copy.copy(self)
        same.examples = examples
        return same

    @property
    def rows(self) -> int:
        """The rows of a (micro-)batch, of the largest shape."""
        return self.shapes[-1][-2]

    @property
    def described(self) -> str:
        """`32 × 16 or 24 tokens`, `32 in 11 × 72 tokens`: examples, and the rows and lengths that a step computes."""
        rows, longest = self.shapes[-1][-2] * self.accumulate, self.shapes[-1][-1]
        if rows == self.batch_size:
            return f"{rows} × {' or '.join(str(shape[-1]) for shape in self.shapes)} tokens"
        return f"{self.batch_size} in {rows} × {longest} tokens"

    @abstractmethod
    def _deal(self, epoch: int) -> Sequence[Any]:
        """What `_batch` needs for each batch of an epoch."""

    @abstractmethod
    def _batch(self, part: Any) -> Batch:
        """One batch."""


class BucketedBatches(TrainBatches):
    """One example a row, padded to one of at most four lengths.

    The examples of one global shuffle are dealt, in that order, to the padded lengths that the data set has
    (`bucket_lengths`), and cut into batches; what is left over at one length moves up to the next, so only the last
    batch of the longest can be short. The order of the batches is shuffled too. How many batches an epoch has of each
    shape is fixed by the lengths in the data set.

    lengths: the padded lengths, ascending, the last one long enough; those of another data set make the two share
        their compiled shapes. None chooses them for these examples.
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
        lengths: Sequence[int] | None = None,
    ) -> None:
        super().__init__(examples, batch_size, seed, accumulate=accumulate, pad=pad)
        offered = bucket_lengths(examples.lengths, batch_size) if lengths is None else tuple(lengths)
        self._bucket = np.searchsorted(np.array(offered), examples.lengths)
        self._buckets = list(enumerate(offered))
        # Counts alone decide how many batches each length gets, so any epoch tells.
        rows = (batch_size,) if accumulate == 1 else (accumulate, batch_size // accumulate)
        padded = np.array([part.length for part in self._epoch(0)])
        self.shapes = tuple((*rows, int(length)) for length in np.unique(padded))
        self.lengths = tuple(shape[-1] for shape in self.shapes) if lengths is None else offered
        self.padding = _padding(examples, batch_size * int(padded.sum()))
        self.cost = batch_size * float(row_cost(padded).sum())

    def _deal(self, epoch: int) -> list[_Part]:
        order, shuffle = permutations((self.seed, epoch), len(self.examples), self.steps_per_epoch)
        rank = np.argsort(order)
        parts: list[_Part] = []
        left = np.empty(0, np.int64)
        for bucket, length in self._buckets:
            places = np.concatenate([left, np.flatnonzero(self._bucket == bucket)])
            places = places[np.argsort(rank[places])]
            full = len(places) // self.batch_size * self.batch_size
            parts += [_Part(p, length) for p in places[:full].reshape(-1, self.batch_size)]
            left = places[full:]
        if len(left):
            parts.append(_Part(left, self._buckets[-1][1]))
        return [parts[k] for k in shuffle]

    def _batch(self, part: _Part) -> Batch:
        batch = self.examples.pad(part.places, part.length, rows=self.batch_size, pad=self.pad)
        return batch if self.accumulate == 1 else micro_batches(batch, self.accumulate)


class Passes(ABC):
    """Every example exactly once, in batches of few shapes; `index` says which example is where, -1 for none.

    Raises InputError without examples and for a number of rows that is not positive.
    """

    shapes: tuple[tuple[int, ...], ...]
    """The shapes of `tokens`, or of `image`, that occur, smallest first."""
    padding: float
    """The share of all positions that is padding, rows of pure padding included."""

    def __init__(self, examples: Examples, rows: int, *, pad: int = 0) -> None:
        _check(examples, rows, 1)
        self.examples: Examples = examples
        self.pad = pad
        self._parts: Sequence[Any] = ()

    def __len__(self) -> int:
        return len(self._parts)

    def batch(self, i: int) -> Batch:
        """Batch `i`."""
        return self._batch(self._parts[i])

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(i) for i in range(len(self)))

    @abstractmethod
    def _batch(self, part: Any) -> Batch:
        """One batch."""


class BucketedPasses(Passes):
    """One example a row, longest first.

    Sorted by length, so that a batch holds examples of like length and only the last one, of the shortest, can be
    short. There are at most four lengths, chosen as for training but by batches (see `bucket_lengths`). `lengths` are
    lengths that are compiled already: they serve wherever they suffice, and only what is longer gets new ones.
    """

    examples: Encoded

    def __init__(self, examples: Encoded, rows: int, *, lengths: Sequence[int] | None = None, pad: int = 0) -> None:
        super().__init__(examples, rows, pad=pad)
        self.rows = rows
        order = np.argsort(-examples.lengths, kind="stable")
        cuts = [order[i : i + rows] for i in range(0, len(order), rows)]
        longest = np.array([examples.lengths[places[0]] for places in cuts])
        offered = np.array(sorted(lengths or ()), np.int64)
        beyond = longest[longest > offered[-1]] if len(offered) else longest
        if len(beyond):
            offered = np.concatenate([offered, bucket_lengths(beyond, 1)]).astype(np.int64)
        fitting = offered[np.searchsorted(offered, longest)]
        self._parts = [_Part(places, int(length)) for places, length in zip(cuts, fitting, strict=True)]
        self.shapes = tuple((rows, int(length)) for length in np.unique(fitting))
        self.padding = _padding(examples, rows * int(fitting.sum()))

    def _batch(self, part: _Part) -> Batch:
        return self.examples.pad(part.places, part.length, rows=self.rows, pad=self.pad)


def _padding(examples: Encoded, area: int) -> float:
    return 1.0 - int(examples.offsets[-1]) / area


def _check(examples: Examples, batch_size: Any, accumulate: Any) -> None:
    if not len(examples):
        raise InputError("there are no examples to make batches of")
    for name, value in (("batch size", batch_size), ("number of micro-batches (--accumulate)", accumulate)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"the {name} must be a positive integer, not {value!r}")
    if batch_size % accumulate:
        down, up = batch_size // accumulate * accumulate, -(-batch_size // accumulate) * accumulate
        near = f"{down} or {up}" if down else str(up)
        raise InputError(
            f"a batch of {batch_size} examples cannot be cut into {accumulate} equal micro-batches; "
            f"the nearest batch size is {near}"
        )
