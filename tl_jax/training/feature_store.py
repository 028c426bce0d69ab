"""Features on disk, shared between runs and processes: whole and unaltered, or computed again.

<user's cache folder>/tl_jax/features/<key>/{<name>.npy …, entry.json}

An entry is written beside its place and renamed into it, so it is there as a whole or not at all; its files are
compared with the SHA-256 in entry.json whenever it is opened. Two processes that make the same entry write the same
bytes, and the one that is late throws its own away. What has not been used for longest goes first when room is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tl_jax.cache_folder import cache_folder
from tl_jax.errors import InputError

Arrays = Mapping[str, npt.NDArray[Any]]
Fill = Callable[[Arrays], None]

LIMIT = "TL_JAX_CACHE_GIB"  # the environment variable
_LIMIT_GIB = 4.0
_MEMORY = 2**31  # bytes of features that are kept in memory where the disk will not do
_ABANDONED = 24 * 3600.0  # seconds after which what a killed process left is thrown away
_ENTRY = "entry.json"


@dataclass(frozen=True)
class FeatureStore:
    """Entries of arrays by key; `say` hears what cannot be kept, and why. A store never changes what is in an entry.

    What the disk will not take lives in memory as long as the store does; without a `folder` everything. `what` and
    `otherwise` are what it tells of: what is kept, and what is done where it cannot be.
    """

    folder: Path | None
    say: Callable[[str], object]
    what: str = "features"
    otherwise: str = "what is frozen is computed in every step"
    _held: dict[str, Arrays] = field(default_factory=dict, repr=False)

    @classmethod
    def default(cls, say: Callable[[str], object]) -> FeatureStore:
        """In the user's cache folder."""
        return cls(cache_folder() / "features", say)

    def find(self, key: str) -> Arrays | None:
        """The arrays of an entry, read-only from its files; None if there is none, or none that is whole."""
        if self.folder is None or not (place := self.folder / key).is_dir():
            return self._held.get(key)
        try:
            entry = json.loads((place / _ENTRY).read_bytes())
            found = {}
            for name, digest in entry["files"].items():
                path = place / f"{Path(name).name}.npy"
                with open(path, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        raise ValueError("altered")
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                found[name] = array.view(_dtype(entry["dtypes"][name]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
            self.say(f"the cached {self.what} in {place} are damaged ({_why(e)}) and are computed again")
            self._remove(place)
            return None
        with contextlib.suppress(OSError):
            os.utime(place / _ENTRY)  # used now
        return found

    def make(self, key: str, shapes: Mapping[str, tuple[tuple[int, ...], Any]], fill: Fill) -> Arrays | None:
        """A new entry of arrays `{name: (shape, dtype)}` that `fill` writes; None where there is no room for it.

        What `fill` raises leaves no trace. Where the disk will not take them the arrays stay in memory.
        """
        size = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
        if self.folder is not None:
            try:
                return self._on_disk(key, shapes, fill, size)
            except _NoRoom as e:
                self.say(str(e))
            except OSError as e:
                self.say(
                    f"{self.what} cannot be kept in {self.folder} ({_why(e)}): they are kept in memory, if they fit"
                )
        if size + sum(array.nbytes for held in self._held.values() for array in held.values()) > _MEMORY:
            self.say(f"{self.what} of {_gib(size)} are too many to keep: {self.otherwise}")
            return None
        arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
        fill(arrays)
        self._held[key] = arrays
        return arrays

    def _on_disk(self, key: str, shapes: Mapping[str, tuple[tuple[int, ...], Any]], fill: Fill, size: int) -> Arrays:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(size)
        place = self.folder / key
        partial = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=self.folder))
        try:
            digests: dict[str, str] = {}
            arrays = {}
            for name, (shape, dtype) in shapes.items():
                # The format knows no bfloat16: its bits are kept as an integer's.
                kept = dtype if np.dtype(dtype).kind in "iuf" else f"u{np.dtype(dtype).itemsize}"
                file = np.lib.format.open_memmap(partial / f"{name}.npy", mode="w+", dtype=kept, shape=shape)
                arrays[name] = file.view(dtype)
            for path in partial.glob("*.npy") if hasattr(os, "posix_fallocate") else ():
                with open(path, "r+b") as hollow:  # a hole in a file on a full disk would be a crash once written to
                    os.posix_fallocate(hollow.fileno(), 0, path.stat().st_size)
            fill(arrays)
            for name, array in arrays.items():
                array.flush()
                with open(partial / f"{name}.npy", "rb") as written:
                    digests[name] = hashlib.file_digest(written, "sha256").hexdigest()
                    os.fsync(written.fileno())
            dtypes = {name: np.dtype(dtype).name for name, (_, dtype) in shapes.items()}
            (partial / _ENTRY).write_text(json.dumps({"files": digests, "dtypes": dtypes}))
            with contextlib.suppress(OSError):  # another process was first, with the same
                os.rename(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        found = self.find(key)
        if found is None:
            raise OSError("they were removed meanwhile")
        return found

    def _make_room(self, size: int) -> None:
        """Remove what has not been used for longest until `size` more bytes fit; raises `_NoRoom` if they never can."""
        assert self.folder is not None
        limit = _limit()
        if size > limit:
            raise _NoRoom(
                f"{self.what} of {_gib(size)} are more than the cache may hold, {_gib(limit)} ({LIMIT} sets that)"
            )
        entries = []
        for place in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if place.name.startswith("."):
                    if time.time() - place.stat().st_mtime > _ABANDONED:
                        self._remove(place)
                    continue
                held = sum(file.stat().st_size for file in place.iterdir())
                entries.append(((place / _ENTRY).stat().st_mtime, held, place))
        total = sum(held for _, held, _ in entries)
        for _, held, place in sorted(entries):
            if total + size <= limit:
                break
            self._remove(place)
            total -= held

    def _remove(self, place: Path) -> None:
        """Whoever has it open goes on reading: its files are gone once nobody does."""
        shutil.rmtree(place, ignore_errors=True)


class _NoRoom(Exception):
    """The cache may not hold that much."""


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes  # makes numpy know bfloat16 by name

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _limit() -> int:
    """How many bytes of features the cache may hold."""
    given = os.environ.get(LIMIT)
    try:
        limit = _LIMIT_GIB if given is None else float(given)
        if not limit >= 0:
            raise ValueError
    except ValueError:
        raise InputError(f"{LIMIT} must be a number of GiB, not {given!r}") from None
    return int(limit * 2**30)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2g} GiB"


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
