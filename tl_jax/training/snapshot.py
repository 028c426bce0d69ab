"""One folder of arrays that are known to be what was saved: written by Orbax, checked by SHA-256.

    arrays/        Orbax's own folder, one array per leaf; a plain `ocp.load` reads it
    commit.json    step, meta; dtype, shape and SHA-256 of every leaf; size and SHA-256 of every file

Orbax returns altered bytes without a word, hence the sums of the leaves. The sums of the files keep a damaged file
from ever reaching its readers, and cover what the leaves do not.

This is the only module that knows Orbax. Arrays are handed to it as host arrays in one flat dict, so nothing in a
snapshot depends on devices or shardings: whoever restores places the arrays anew.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import jax
import numpy as np

from tl_jax.disk import sync

FORMAT = "tl_jax checkpoint 1"
_COMMIT, _ARRAYS = "commit.json", "arrays"
_TROUBLE = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk quota exceeded", errno.EFBIG: "file too large"}
_NOT_JSON = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)  # what reading any bytes as ours may raise
T = TypeVar("T")
R = TypeVar("R")


class Restored(NamedTuple):
    """A snapshot as it was saved: `arrays` on the host, in the order they were given; `meta`; the step."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    step: int


class Damaged(Exception):
    """What is wrong with a snapshot."""


class _Failed(Exception):
    """Orbax did not do what it was asked."""


def write(folder: Path, step: int, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Fill the empty `folder`; when this returns all of it is on the disk.

    Raises TypeError for what a snapshot cannot hold; for failures of the disk see `trouble`.
    """
    if _dump(json.loads(_dump(meta))) != _dump(meta):
        raise TypeError("two keys of meta are one in JSON")
    leaves = {name: _host(name, array) for name, array in arrays.items()}
    stored = {_key(name): _stored(leaf) for name, leaf in leaves.items() if leaf.size}  # Orbax refuses empty arrays
    with ThreadPoolExecutor(_workers()) as pool:  # summing and writing let go of the interpreter: they overlap
        sums = pool.map(_sum, leaves.values())
        if stored:
            _orbax(lambda ocp: ocp.save(folder / _ARRAYS, stored))
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        document = {
            "format": FORMAT,
            "step": step,
            "meta": dict(meta),
            "leaves": {
                name: {"dtype": leaf.dtype.name, "shape": list(leaf.shape), "sha256": digest}
                for (name, leaf), digest in zip(leaves.items(), sums, strict=True)
            },
            "files": {
                path.relative_to(folder).as_posix(): sealed
                for path, sealed in zip(files, pool.map(_seal, files), strict=True)
            },
        }
    document["sha256"] = hashlib.sha256(_dump(document)).hexdigest()
    with open(folder / _COMMIT, "wb") as file:
        file.write(_dump(document))
        file.flush()
        os.fsync(file.fileno())
    for path in [*(p for p in folder.rglob("*") if p.is_dir()), folder]:
        sync(path)


def read(folder: Path) -> Restored:
    """What `write` put into `folder`, to the bit; raises `Damaged` if that is no longer there."""
    try:
        document = _commit(folder)
        leaves = document["leaves"]
        if wrong := _wrong_file(folder, document["files"]):
            lost = _lost(folder, leaves)
            raise Damaged(wrong if lost is None else f"{wrong}; this costs the leaf {lost!r}")
        arrays = _load(folder, leaves)
    except OSError as error:
        raise Damaged(f"cannot be read: {error}") from None
    except _Failed as failure:
        raise Damaged(f"Orbax cannot read it: {str(failure).splitlines()[0][:300]}") from None
    if altered := _altered(arrays, leaves):
        raise Damaged(f"the leaf {altered!r} has other bytes than were saved")
    return Restored(arrays, document["meta"], document["step"])


def is_committed(folder: Path) -> bool:
    """Whether `folder` looks finished; only `read` knows whether it is good."""
    return (folder / _COMMIT).is_file()


def is_ours(folder: Path) -> bool:
    """Whether `folder` is certainly a snapshot, good or damaged: only such may be deleted."""
    try:
        form = json.loads((folder / _COMMIT).read_bytes())["format"]
        return not folder.is_symlink() and str(form).startswith("tl_jax checkpoint ")
    except (OSError, *_NOT_JSON):
        return False


def trouble(error: BaseException) -> str | None:
    """What the operating system had against a write, or None if `error` is not of that kind.

    TensorStore's threads are told EFBIG or ENOSPC (Python ignores SIGXFSZ, which would kill) and raise a ValueError
    that names the number in its text.
    """
    seen: BaseException | None = error
    while seen is not None:
        code = seen.errno if isinstance(seen, OSError) else None
        if code is None and (match := re.search(r"os_error_code='(\d+)'", str(seen))):
            code = int(match[1])
        if code:
            return _TROUBLE.get(code, os.strerror(code).lower())
        seen = seen.__cause__ or seen.__context__
    return None


def _commit(folder: Path) -> dict[str, Any]:
    if not is_committed(folder):
        raise Damaged(f"half-written or not ours (no {_COMMIT})")
    data = (folder / _COMMIT).read_bytes()
    try:
        document: dict[str, Any] = json.loads(data)
        whole = data == _dump(document)
        whole &= document.pop("sha256") == hashlib.sha256(_dump(document)).hexdigest()
        form = document["format"]
    except _NOT_JSON:
        raise Damaged(f"{_COMMIT} is truncated, altered or not ours") from None
    if not whole:
        raise Damaged(f"{_COMMIT} is altered")
    if form != FORMAT:
        raise Damaged(f"its format is {form!r}; this version reads {FORMAT!r}")
    return document


def _wrong_file(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What is wrong with the first file that is not as it was sealed."""
    for name, saved in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (size := (folder / name).stat().st_size) != saved["bytes"]:
            return f"{name} has {size:,} bytes instead of {saved['bytes']:,}"
    for name, digest in zip(files, _in_threads(_file_sum, [folder / name for name in files]), strict=True):
        if digest != files[name]["sha256"]:
            return f"{name} has other bytes than were saved"
    return None


def _lost(folder: Path, leaves: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A leaf that a damaged file took with it, if one can be told."""
    try:
        return _altered(_load(folder, leaves), leaves)
    except (Damaged, _Failed) as failure:
        return next((name for name in leaves if f'"{_key(name)}/' in str(failure)), None)


def _altered(arrays: Mapping[str, np.ndarray], leaves: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first leaf whose bytes are not those that were saved."""
    sums = zip(arrays, _in_threads(_sum, arrays.values()), strict=True)
    return next((name for name, digest in sums if digest != leaves[name]["sha256"]), None)


def _load(folder: Path, leaves: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays as Orbax finds them, of the dtypes and shapes that `leaves` tells."""
    arrays = {name: _blank(leaf) for name, leaf in leaves.items()}
    if not any(array.size for array in arrays.values()):
        return arrays
    loaded = _orbax(lambda ocp: ocp.load(folder / _ARRAYS))
    for name, blank in arrays.items():
        if blank.size:
            found, stored = np.asarray(loaded[_key(name)]), _stored(blank)
            if (found.dtype, found.shape) != (stored.dtype, stored.shape):
                raise Damaged(f"the leaf {name!r} is {found.dtype}{found.shape}, not {stored.dtype}{stored.shape}")
            arrays[name] = found.view(blank.dtype)
    return arrays


def _orbax(call: Callable[[Any], R]) -> R:
    """`call(ocp)` under our options, in silence; any failure as `_Failed`.

    No compression: weights do not compress, and it took half the time. No sharding file and no array metadata: they
    describe devices, and host arrays have none. No second copy of the arrays: the call returns when all is written.
    """
    with _quiet():
        from orbax.checkpoint import v1 as ocp

        context = ocp.Context()
        saving = context.array.saving
        saving.use_compression = False
        saving.enable_write_sharding_file = False
        saving.array_metadata_store = None
        context.memory.deepcopy_host_arrays = False
        try:
            with context:
                return call(ocp)
        except Exception as error:
            failure = _Failed(str(error) or type(error).__name__)
            failure.__cause__ = error
            traceback.clear_frames(error.__traceback__)
        gc.collect()  # the coroutines Orbax abandons complain when they die: here nobody hears it
        raise failure


@contextmanager
def _quiet() -> Iterator[None]:
    """Orbax and TensorStore chat through logging and warnings; what matters of it comes as an exception too.

    After a failure TensorStore's threads may still report, whenever they are done, to a loop that Orbax has closed;
    so then their complaint about that, and no other, stays unheard.
    """
    loggers = [logging.getLogger("absl"), logging.getLogger("asyncio")]
    before, hook = [logger.disabled for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.disabled = True
    sys.unraisablehook = _Stragglers(hook) if not isinstance(hook, _Stragglers) else hook
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        sys.unraisablehook = hook
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


class _Stragglers:
    """A `sys.unraisablehook` that drops "Event loop is closed" and hands on the rest."""

    def __init__(self, hook: Callable[[sys.UnraisableHookArgs], Any]) -> None:
        self.hook = hook

    def __call__(self, what: sys.UnraisableHookArgs, /) -> None:
        if not (isinstance(what.exc_value, RuntimeError) and str(what.exc_value) == "Event loop is closed"):
            self.hook(what)


def _host(name: str, array: Any) -> np.ndarray:
    """`array` as a contiguous host array in this machine's byte order."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a leaf is a string, not {name!r}")
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise TypeError(f"the leaf {name!r} is a typed random key: save jax.random.key_data of it")
    found = np.asarray(array)
    kind, size = found.dtype.kind, found.dtype.itemsize
    if not (_extended(found.dtype) or kind == "b" or (kind in "iuf" and size <= 8) or (kind == "c" and size <= 16)):
        raise TypeError(f"the leaf {name!r} has dtype {found.dtype}, which a checkpoint cannot hold")
    return np.asarray(found, found.dtype.newbyteorder("="), order="C")


def _extended(dtype: np.dtype[Any]) -> bool:
    """Whether it is one of the dtypes that JAX adds to NumPy's: bfloat16, float8, int4, …"""
    return dtype.kind == "V" and dtype.isbuiltin == 2


def _stored(leaf: np.ndarray) -> np.ndarray:
    """As Orbax gets it: it refuses some extended dtypes (uint4), so all but bfloat16 go as the bytes they occupy."""
    return leaf.view(np.uint8) if _extended(leaf.dtype) and leaf.dtype.itemsize == 1 else leaf


def _blank(leaf: Mapping[str, Any]) -> np.ndarray:
    """An array of a leaf's dtype and shape that takes no memory."""
    return np.broadcast_to(np.zeros((), np.dtype(leaf["dtype"])), leaf["shape"])


def _key(name: str) -> str:
    """`name` for Orbax, which makes paths of names: distinct names stay distinct, none has a `/` or is empty."""
    return "%" + quote(name, safe="", errors="surrogatepass").replace(".", "%2E")


def _sum(leaf: np.ndarray) -> str:
    return hashlib.sha256(leaf.reshape(-1).view(np.uint8).data).hexdigest()


def _file_sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(path: Path) -> dict[str, Any]:
    """Flush a finished file to the disk; its size and sum."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": _file_sum(path)}


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()


def _in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(_workers()) as pool:
        return list(pool.map(function, items))


def _workers() -> int:
    return min(4, os.cpu_count() or 1)
