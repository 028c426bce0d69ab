"""Tensors in files, whatever their format: described before they are read, read one at a time, joined over shards.

An array lies in memory of its own: it stays what it was when its file is replaced, overwritten or deleted afterwards (a
memory map would change under it, or end the process).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np

from tl_jax.errors import InputError
from tl_jax.pretrained import links
from tl_jax.pretrained.json_files import read_value
from tl_jax.pretrained.malformed import plain, shown

T = TypeVar("T", bound="Tensors")
_MAX_AXES = 64  # numpy's own limit
_MAX_BYTES = 1 << 62
_SHOWN = 5  # names in a message


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
            for name, spec, read in self._opened(path):
                if name in self.specs:
                    raise InputError(f"{path}: the tensor {shown(name)} is listed twice")
                self.specs[name], self._reads[name] = spec, read

    def _opened(self, path: Path) -> Iterator[tuple[str, Spec, Callable[[], np.ndarray]]]:
        try:
            yield from self._entries(path)
        except OSError as e:
            raise InputError(f"cannot read {path}: {e.strerror or e}") from None

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
    that is missing, or that disagrees with its shards, for links that leave the folder, and whatever `tensors` refuses.
    """
    if (folder / single).is_file():
        links.check(folder, [folder / single])
        return tensors([folder / single])
    if not (folder / index).is_file():
        return None
    links.check(folder, [folder / index])
    where = _weight_map(folder / index)
    shards = list(dict.fromkeys(where.values()))
    if outside := [shard for shard in shards if PurePath(shard).name != str(PurePath(shard))]:
        raise InputError(f"{folder / index} names {shown(outside[0])}, which does not lie in the folder itself")
    if missing := [shard for shard in shards if not _is_file(folder / shard)]:
        raise InputError(f"{folder / index} names {_listed(missing)}, which the folder lacks: download it again")
    links.check(folder, [folder / shard for shard in shards])
    found = tensors([folder / shard for shard in shards])
    if astray := sorted(set(where) ^ set(found)):
        raise InputError(f"{folder / index} and its shards disagree on {len(astray)} tensors: {_listed(astray)}")
    return found


def same_bits(tensors: Tensors, one: str, other: str) -> bool:
    """Whether two tensors hold the same bits; no more than the two is held."""
    if tensors.specs[one] != tensors.specs[other]:
        return False
    # A stretch at a time, whatever the layout: NaN is the same as itself, and -0.0 is not 0.0.
    stretches = np.nditer([tensors[one], tensors[other]], ["external_loop", "buffered", "zerosize_ok"])
    return all(a.tobytes() == b.tobytes() for a, b in stretches)


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
        names = Counter(name for name, _ in pairs)
        if len(names) < len(pairs):
            raise InputError(f"{path}: {_listed([name for name, count in names.items() if count > 1])} is listed twice")
        return dict(pairs)

    where = found.get("weight_map") if isinstance(found := read_value(path, unique), dict) else None
    if not isinstance(where, dict) or not all(isinstance(shard, str) for shard in where.values()):
        raise InputError(f"{path} is not an index of shards: it must hold a weight_map of names")
    return where


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long, or it leads in a circle
        return False


def _listed(names: list[str]) -> str:
    return ", ".join(map(plain, names[:_SHOWN])) + (" …" if len(names) > _SHOWN else "")
