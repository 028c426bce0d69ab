"""Tensors in files, whatever their format: described before they are read, read one at a time, joined over shards.

An array lies in memory of its own: it stays what it was when its file is replaced, overwritten or deleted afterwards (a
memory map would change under it, or end the process).
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np

from tl_jax.errors import InputError

T = TypeVar("T", bound="Tensors")
_MAX_AXES = 64  # numpy's own limit
_MAX_BYTES = 1 << 62


@dataclass(frozen=True)
class Spec:
    """What a file says of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class Deferred:
    """An array that is not read yet: `np.asarray(deferred)` reads it, each time anew, and keeps nothing of it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of them."""
        return self.size * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        read = self.read()
        return read if dtype is None else read.astype(dtype, copy=False)


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of one or several files, read when asked for; `specs` describes them without reading.

    A format says in `_entries` what a file holds. Raises `InputError` for a file that is damaged or none of the format,
    a dtype we do not compute with, and a tensor that two places hold.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.specs: dict[str, Spec] = {}
        self._reads: dict[str, Callable[[], np.ndarray]] = {}
        for path in files:
            for name, spec, read in self._entries(path):
                if name in self.specs:
                    raise InputError(f"{path}: the tensor {name!r} is listed twice")
                self.specs[name], self._reads[name] = spec, read

    @abstractmethod
    def _entries(self, path: Path) -> Iterable[tuple[str, Spec, Callable[[], np.ndarray]]]:
        """The tensors of one file: name, description, and what reads it."""

    def __getitem__(self, name: str) -> np.ndarray:
        return self._reads[name]()

    def deferred(self, name: str) -> Deferred:
        """A tensor for later; the files stay open until then."""
        spec = self.specs[name]
        return Deferred(spec.shape, spec.dtype, partial(self.__getitem__, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


def read_folder(folder: Path, single: str, index: str, tensors: Callable[[list[Path]], T]) -> T | None:
    """The weights of a folder in one format: those of the file `single`, or else of the shards that `index` names.

    None for a folder with neither. Raises `InputError` for an index that names a shard outside of the folder or one
    that is missing, or that disagrees with its shards, and whatever `tensors` refuses. Links are followed: in the hub's
    cache every file is one.
    """
    if (folder / single).is_file():
        return tensors([folder / single])
    if not (folder / index).is_file():
        return None
    where = _weight_map(folder / index)
    shards = list(dict.fromkeys(where.values()))
    if outside := [shard for shard in shards if PurePath(shard).name != str(PurePath(shard))]:
        raise InputError(f"{folder / index} names {outside[0]!r}, which does not lie in the folder itself")
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        raise InputError(f"{folder / index} names {', '.join(missing)}, which the folder lacks: download it again")
    found = tensors([folder / shard for shard in shards])
    if astray := sorted(set(where) ^ set(found)):
        raise InputError(
            f"{folder / index} and its shards disagree on {len(astray)} tensors: {', '.join(astray[:5])}"
            + (" …" if len(astray) > 5 else "")
        )
    return found


def too_large(shape: Iterable[int], itemsize: int) -> bool:
    """Whether no array can have this shape, an empty one neither."""
    shape = tuple(shape)
    return len(shape) > _MAX_AXES or math.prod(max(n, 1) for n in shape) * itemsize > _MAX_BYTES


def lfs_pointer(path: Path) -> str | None:
    """The message for a file that Git LFS left in the place of the weights; None for any other."""
    with open(path, "rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the weights: run git lfs pull in its folder"
    return None


def _weight_map(path: Path) -> dict[str, str]:
    """An index's `{tensor: shard}`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise InputError(f"{path}: {', '.join(map(repr, twice))} is listed twice")
        return dict(pairs)

    try:
        where = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)["weight_map"]
        if not all(isinstance(shard, str) for shard in where.values()):
            raise TypeError
        return dict(where)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not an index of shards: it must be JSON with a weight_map") from None
