"""Encoded examples: what all have in common, and texts as ragged token ids in flat arrays, padded to rectangles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tl_jax.data.noise import position_noise
from tl_jax.errors import InputError

Batch = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Feature:
    """What a frozen part of a model makes of examples: `values` [N, …], or [total, …] like their tokens if `ragged`."""

    values: npt.NDArray[Any]
    ragged: bool


class Examples(ABC):
    """N examples as a model reads them, of whatever kind.

    targets: int32 or float32 [N, …]; zeros where there is nothing to predict.
    index: int32 [N], not negative: the number of each example in its data set. It names the example in messages and
        seeds its dropout, so it stays with the example when some are selected.
    features: by key of the state, what is computed of them already; batches hold it too.
    """

    targets: npt.NDArray[Any]
    index: npt.NDArray[np.int32]
    features: Mapping[str, Feature]

    ragged: ClassVar[frozenset[str]] = frozenset()
    """The state keys that hold something for each position of an example, as many as it has."""

    def __len__(self) -> int:
        return len(self.index)

    @abstractmethod
    def select(self, places: Iterable[int]) -> Examples:
        """The examples at `places`, in that order, each with the index it had; without features."""

    def place(self, index: int) -> int:
        """The place in its data set of what the example of that index was made of."""
        return index

    @abstractmethod
    def facts(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Arrays, each with a name, that differ whenever what a model reads of the examples does."""

    @abstractmethod
    def rows(self, key: str) -> int:
        """The length of an array that holds `key` for all examples."""

    @abstractmethod
    def span(self, key: str, i: int) -> slice:
        """Where in such an array example i lies."""


@dataclass(frozen=True, eq=False)
class Encoded(Examples):
    """N examples as a model reads them, token ids one after the other.

    tokens: int32 [total]; example i is `tokens[offsets[i]:offsets[i + 1]]`.
    offsets: int64 [N + 1].
    targets: int32 or float32 [N, …]; zeros where there is nothing to predict. With `per_token` int32 [total], one for
        each token, negative where there is nothing to predict.
    index: int32 [N], not negative: the number of each example in its data set. It names the example in messages and
        seeds its dropout, so it stays with the example when some are selected.
    token_type: int32 [total], or None for zeros.
    features: by key of the state, what is computed of them already; batches hold it too.
    """

    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    targets: npt.NDArray[Any]
    index: npt.NDArray[np.int32]
    token_type: npt.NDArray[np.int32] | None = None
    features: Mapping[str, Feature] = field(default_factory=dict)
    per_token: bool = False
    owners: npt.NDArray[np.int32] | None = None
    ragged: ClassVar[frozenset[str]] = frozenset({"hidden"})

    @classmethod
    def of(
        cls,
        tokens: Sequence[Sequence[int] | npt.NDArray[Any]],
        targets: Any = None,
        *,
        index: Any = None,
        token_type: Sequence[Sequence[int] | npt.NDArray[Any]] | None = None,
        per_token: bool = False,
        owners: npt.NDArray[np.int32] | None = None,
    ) -> Encoded:
        """From one sequence of token ids an example; integer targets become int32, others float32.

        With `per_token` the targets are sequences too, as long as the tokens. `index` is 0 … N - 1 unless given. Raises
        InputError for an example without tokens, ValueError for lengths that do not fit together.
        """
        sizes = np.array([len(row) for row in tokens], np.int64)
        if (sizes == 0).any():
            raise InputError(f"example {int(np.argmin(sizes))} has no tokens")
        n = len(sizes)
        if per_token and [len(row) for row in targets] != sizes.tolist():
            raise ValueError("targets of tokens must be as long as tokens in every example")
        wanted = np.zeros(n, np.int32) if targets is None else _flat(targets) if per_token else np.asarray(targets)
        wanted = wanted.astype(np.int32 if wanted.dtype.kind in "iub" else np.float32)
        numbers = np.arange(n, dtype=np.int32) if index is None else np.asarray(index, np.int32)
        if (len(wanted) != n and not per_token) or len(numbers) != n:
            raise ValueError(f"{n} examples, but {len(wanted)} targets and {len(numbers)} indices")
        if n and numbers.min() < 0:
            raise ValueError("an example's index cannot be negative: -1 marks rows of padding")
        if token_type is not None and [len(row) for row in token_type] != sizes.tolist():
            raise ValueError("token_type must be as long as tokens in every example")
        return cls(
            _flat(tokens),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            wanted,
            numbers,
            None if token_type is None else _flat(token_type),
            per_token=per_token,
            owners=owners,
        )

    def place(self, index: int) -> int:
        return index if self.owners is None else int(self.owners[index])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """The number of tokens of each example, int64 [N]."""
        return np.diff(self.offsets)

    def select(self, places: Iterable[int]) -> Encoded:
        """The examples at `places`, in that order, each with the index it had; without features."""
        chosen = [int(i) for i in places]
        spans = [slice(self.offsets[i], self.offsets[i + 1]) for i in chosen]
        return Encoded.of(
            [self.tokens[span] for span in spans],
            [self.targets[span] for span in spans] if self.per_token else self.targets[chosen],
            index=self.index[chosen],
            token_type=None if self.token_type is None else [self.token_type[span] for span in spans],
            per_token=self.per_token,
            owners=self.owners,
        )

    def facts(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        yield "tokens", self.tokens
        yield "offsets", self.offsets
        if self.token_type is not None:
            yield "token_type", self.token_type

    def rows(self, key: str) -> int:
        return int(self.offsets[-1]) if key in self.ragged else len(self)

    def span(self, key: str, i: int) -> slice:
        return slice(self.offsets[i], self.offsets[i + 1]) if key in self.ragged else slice(i, i + 1)

    def pad(self, places: npt.NDArray[np.int64], length: int, *, rows: int, pad: int = 0) -> Batch:
        """The examples at `places` as a batch of `rows` rows, each padded to `length`; missing rows are all padding.

        tokens, token_type, positions, segments int32, mask bool, noise uint32, all [rows, length]; targets
        [rows, …]; weights float32 and index int32 [rows]. On padding tokens are `pad`, the rest is 0 or False;
        rows of padding have weight 0, index -1 and target 0. Targets of tokens are int32 [rows, length], -1 on padding.
        """
        filled = np.full((rows, 1), -1, np.int64)
        filled[: len(places), 0] = places
        batch = self.pack(filled, length, pad=pad)
        del batch["starts"]
        return batch

    def pack(self, places: npt.NDArray[np.int64], width: int, *, pad: int = 0) -> Batch:
        """The examples at `places`, int64 [rows, slots], side by side in rows of `width`; -1 is an empty slot.

        As `pad` gives them, but with a `segments` of s + 1 for the example in slot s of its row, `starts` int32
        [rows, slots], where each begins, and N = rows · slots targets, weights and indices, row by row. An empty slot
        has weight 0, index -1, and target and start 0.
        """
        rows, slots = places.shape
        real = places >= 0
        lengths = np.where(real, self.lengths[places], 0)
        starts = np.where(real, np.cumsum(lengths, axis=1) - lengths, 0)
        flat, sizes = places.ravel(), lengths.ravel()
        slot = np.repeat(np.arange(rows * slots), sizes)
        position = np.arange(len(slot)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        source = self.offsets[flat][slot] + position
        target = (starts + np.arange(rows)[:, None] * width).ravel()[slot] + position
        index = np.where(real, self.index[places], -1).astype(np.int32).ravel()
        targets = None if self.per_token else self.targets[flat]
        if targets is not None:
            targets[index < 0] = 0

        def laid(values: Any, dtype: Any, rest: int = 0) -> npt.NDArray[Any]:
            found = np.full((rows * width, *np.shape(values)[1:]), rest, dtype)
            found[target] = values
            return found.reshape(rows, width, *found.shape[1:])

        def computed(feature: Feature) -> npt.NDArray[Any]:
            if feature.ragged:
                return laid(feature.values[source], feature.values.dtype)
            found = np.array(feature.values[flat])
            found[index < 0] = 0
            return found

        return {
            **{key: computed(feature) for key, feature in self.features.items()},
            "tokens": laid(self.tokens[source], np.int32, pad),
            "mask": laid(True, np.bool_),
            "token_type": laid(0 if self.token_type is None else self.token_type[source], np.int32),
            "positions": laid(position, np.int32),
            "segments": laid(slot % slots + 1, np.int32),
            "noise": laid(position_noise(index[slot], position), np.uint32),
            "starts": starts.astype(np.int32),
            "targets": laid(self.targets[source], np.int32, -1) if targets is None else targets,
            "weights": (index >= 0).astype(np.float32),
            "index": index,
        }


def shape_of(batch: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of what a model reads of a batch, or of its features: for each another step is compiled."""
    key = next(key for key in ("tokens", "image", "weights") if key in batch)
    found: tuple[int, ...] = batch[key].shape
    return found


def filled(batch: Mapping[str, npt.NDArray[Any]]) -> tuple[int, int]:
    """How many positions of a batch, or rows where there are no positions, are no padding; and how many there are."""
    real = batch["mask"] if "mask" in batch else batch["weights"] > 0
    return int(real.sum()), real.size


def micro_batches(batch: Mapping[str, npt.NDArray[Any]], accumulate: int) -> Batch:
    """Every array [B, …] as [accumulate, B / accumulate, …], rows in order."""
    return {key: value.reshape(accumulate, -1, *value.shape[1:]) for key, value in batch.items()}


def _flat(rows: Sequence[Sequence[int] | npt.NDArray[Any]]) -> npt.NDArray[np.int32]:
    return np.concatenate([np.empty(0, np.int32), *(np.asarray(row, np.int32) for row in rows)])
