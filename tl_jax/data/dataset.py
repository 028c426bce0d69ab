"""Random access over columns: the one form in which examples reach everything else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax.errors import InputError, did_you_mean
from tl_jax.pictures import Picture, is_pillow, is_pixels


class Dataset:
    """Examples as equally long columns; never changed once made.

    `len(dataset)` examples, `dataset[i]` one of them as a dict, `dataset.column(name)` one column as a list.
    Values are plain Python (numpy scalars are turned into it), images are `Picture`s. `name` is a short name (a file's
    stem), `source` says where the examples come from and `lines` holds the line of the file each one starts on, both
    for messages. Paths in the columns are relative to `folder`.

    Raises InputError when the columns differ in length.
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[Any] | np.ndarray],
        *,
        name: str = "data",
        source: str = "in memory",
        lines: Sequence[int] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._columns = {str(key): tuple(_plain(v) for v in values) for key, values in columns.items()}
        self.name = name
        self.source = source
        self.folder = folder
        self._lines = None if lines is None else tuple(lines)
        self._places: tuple[int, ...] | None = None
        lengths = {key: len(values) for key, values in self._columns.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{key!r} has {n}" for key, n in lengths.items())
            raise InputError(f"{source}: every column needs the same number of values, but {told}")
        self._length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {key: values[i] for key, values in self._columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self)} examples, columns {', '.join(self.columns)}, from {self.source})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the source."""
        return tuple(self._columns)

    def column(self, name: str) -> list[Any]:
        """The values of one column. Raises InputError, naming the nearest, when there is no such column."""
        if name not in self._columns:
            raise InputError(f"{self.source} has no column {name!r}{did_you_mean(name, self.columns)}")
        return list(self._columns[name])

    def select(self, indices: Iterable[int]) -> Dataset:
        """The examples at `indices`, in that order. Messages about them still name their original place."""
        chosen = [int(i) for i in indices]
        places = range(len(self)) if self._places is None else self._places
        part = Dataset(
            {key: [values[i] for i in chosen] for key, values in self._columns.items()},
            name=self.name,
            source=self.source,
            lines=None if self._lines is None else [self._lines[i] for i in chosen],
            folder=self.folder,
        )
        part._places = tuple(places[i] for i in chosen)
        return part

    def replaced(self, name: str, values: Sequence[Any]) -> Dataset:
        """The same examples with other values in one column."""
        other = Dataset(
            {**self._columns, name: values}, name=self.name, source=self.source, lines=self._lines, folder=self.folder
        )
        other._places = self._places
        return other

    def where(self, i: int) -> str:
        """Where example `i` comes from, in words: "tickets.csv, line 7"; without a file "in memory, example 5".

        An image that no line names says so itself.
        """
        if self._lines is not None:
            return f"{self.source}, line {self._lines[i]}"
        for values in self._columns.values():
            if isinstance(values[i], Picture):
                return str(values[i].name)
        return f"{self.source}, example {i if self._places is None else self._places[i]}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content: names of the columns and the values in order.

        It depends neither on the place nor the format of the file, nor on the order of the columns: a scalar counts
        as the text a CSV would hold, so `1` and `"1"` are the same and `null` is the empty text. An image counts as
        what is in it; a path in a column that is no `Picture` counts as text.
        """
        digest = hashlib.sha256()
        for name in sorted(self._columns):
            values = self._columns[name]
            for text in (name, str(len(values)), *map(_as_text, values)):
                data = text.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "little"))  # lengths keep ("ab", "c") apart from ("a", "bc")
                digest.update(data)
        return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if is_pixels(value) or is_pillow(value):
        return Picture.of(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, Picture):
        return value.digest
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=repr)
