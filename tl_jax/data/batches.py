"""Batches as a pure function of (seed, step) for training, and each example once for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tl_jax.data.encoded import Batch, Encoded, micro_batches
from tl_jax.data.lengths import bucket_lengths
from tl_jax.data.shuffling import check_seed, permutations
from tl_jax.errors import InputError

Places = npt.NDArray[np.int64]


class _Part(NamedTuple):
    """The examples of one batch and the length they are padded to."""

    places: Places
    length: int


class TrainBatches:
    """Shuffled training batches of few shapes; `batch(step)` depends on the seed and the step alone.

    Each epoch is one global shuffle by a counter-based generator keyed by (seed, epoch). Its examples are dealt,
    in that order, to the padded lengths that the data set has (`bucket_lengths`), and cut into batches; what is left
    over at one length moves up to the next, so only the last batch of the longest can be short. The order of the
    batches is shuffled too. Each epoch sees each example exactly once, and how many batches it has of each shape is
    fixed by the lengths in the data set.

    examples: what to train on, at least one.
    batch_size: examples a step, all micro-batches together.
    accumulate: micro-batches a step. Above 1 every array of a batch is [accumulate, batch_size / accumulate, …].
    pad: the token id of padding.
    lengths: the padded lengths, ascending, the last one long enough; those of another data set make the two share
        their compiled shapes. None chooses them for these examples.

    Raises InputError without examples, for sizes that are not positive, for a batch size that `accumulate` does not
    divide (naming the nearest that it does), and for a bad seed.
    """

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
        _check(examples, batch_size, accumulate)
        self.examples = examples
        self.batch_size = batch_size
        self.seed = check_seed(seed)
        self.accumulate = accumulate
        self.pad = pad
        offered = bucket_lengths(examples.lengths, batch_size) if lengths is None else tuple(lengths)
        self._bucket = np.searchsorted(np.array(offered), examples.lengths)
        self._buckets = list(enumerate(offered))
        self.steps_per_epoch = -(-len(examples) // batch_size)
        self._epoch = lru_cache(maxsize=2)(self._deal)
        # Counts alone decide how many batches each length gets, so any epoch tells.
        rows = (batch_size,) if accumulate == 1 else (accumulate, batch_size // accumulate)
        parts = self._epoch(0)
        self.shapes = tuple((*rows, length) for length in sorted({part.length for part in parts}))
        self.lengths = tuple(shape[-1] for shape in self.shapes) if lengths is None else offered
        self.padding = _padding(examples, batch_size * sum(part.length for part in parts))

    shapes: tuple[tuple[int, ...], ...]
    """The shapes of `tokens` that occur in every epoch, shortest first."""
    lengths: tuple[int, ...]
    """The padded lengths of `shapes`, or those that were given."""
    padding: float
    """The share of all positions of an epoch that is padding, rows of pure padding included."""

    def batch(self, step: int) -> Batch:
        """The batch of global step `step` (0 is the first), as `Encoded.pad` gives it; see `accumulate`."""
        if step < 0:
            raise IndexError(f"there is no step {step}")
        epoch, at = divmod(step, self.steps_per_epoch)
        places, length = self._epoch(epoch)[at]
        batch = self.examples.pad(places, length, rows=self.batch_size, pad=self.pad)
        return batch if self.accumulate == 1 else micro_batches(batch, self.accumulate)

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


class EvalBatches:
    """Every example exactly once, longest first, in batches of few shapes; `index` says which row is which.

    Sorted by length, so that a batch holds examples of like length and only the last one, of the shortest, can be
    short. There are at most four lengths, chosen as for training but by batches (see `bucket_lengths`). `lengths` are
    lengths that are compiled already: they serve wherever they suffice, and only what is longer gets new ones.

    Raises InputError without examples and for a batch size that is not positive.
    """

    def __init__(
        self, examples: Encoded, batch_size: int, *, lengths: Sequence[int] | None = None, pad: int = 0
    ) -> None:
        _check(examples, batch_size, 1)
        self.examples = examples
        self.batch_size = batch_size
        self.pad = pad
        order = np.argsort(-examples.lengths, kind="stable")
        cuts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        longest = np.array([examples.lengths[places[0]] for places in cuts])
        offered = np.array(sorted(lengths or ()), np.int64)
        beyond = longest[longest > offered[-1]] if len(offered) else longest
        if len(beyond):
            offered = np.concatenate([offered, bucket_lengths(beyond, 1)]).astype(np.int64)
        fitting = offered[np.searchsorted(offered, longest)]
        self._parts = [_Part(places, int(length)) for places, length in zip(cuts, fitting, strict=True)]
        self.shapes = tuple((batch_size, int(length)) for length in np.unique(fitting))
        self.padding = _padding(examples, batch_size * int(fitting.sum()))

    shapes: tuple[tuple[int, ...], ...]
    """The shapes of `tokens` that occur, shortest first."""
    padding: float
    """The share of all positions that is padding, rows of pure padding included."""

    def __len__(self) -> int:
        return len(self._parts)

    def batch(self, i: int) -> Batch:
        """Batch `i`, as `Encoded.pad` gives it."""
        places, length = self._parts[i]
        return self.examples.pad(places, length, rows=self.batch_size, pad=self.pad)

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(i) for i in range(len(self)))


def _padding(examples: Encoded, area: int) -> float:
    return 1.0 - int(examples.offsets[-1]) / area


def _check(examples: Encoded, batch_size: Any, accumulate: Any) -> None:
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
