"""Reading and writing safetensors: the tensors of files, and the one function of the project that writes one.

Both go a tensor at a time. Files are read, never mapped, and no more is held than what is asked for.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tl_jax.disk import sync
from tl_jax.errors import InputError
from tl_jax.pretrained import safetensors_header, strided, tensor_files
from tl_jax.pretrained.malformed import Malformed
from tl_jax.pretrained.safetensors_header import Place
from tl_jax.pretrained.tensor_files import Spec

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Tensors(tensor_files.Tensors):
    """The tensors of one or several safetensors files."""

    def _entries(self, path: Path) -> Iterator[tuple[str, Spec, Callable[[], np.ndarray]]]:
        file = io.BufferedReader(io.FileIO(path))  # the same one to the end, whatever takes its name
        weakref.finalize(self, file.close)
        try:
            places = safetensors_header.read(file)
        except Malformed as e:
            raise InputError(tensor_files.lfs_pointer(path) or f"{path} {e}") from None
        for name, place in places.items():
            yield name, place.spec, partial(_read, path, file, place)


def write(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write one safetensors file: whole or not at all, on disk when this returns.

    `tensors` are numpy or JAX arrays of any memory layout, or `Deferred` ones: each is asked for when its turn comes,
    and let go before the next. Raises `OSError` when the disk refuses; `path` is then as it was.
    """
    specs = {name: Spec(tuple(a.shape), np.dtype(a.dtype)) for name, a in tensors.items()}
    header, order = safetensors_header.written(specs)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb", buffering=0) as file:
            _write_all(file, header)
            for name in order:
                _write_all(file, _bytes_of(tensors[name], specs[name]))
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:
        raise OSError(f"could not write {path}: {e.strerror or e}") from e
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_folder(folder: Path, tensors: Mapping[str, Any], max_shard_size: int | str | None = None) -> None:
    """Write the weights of a Hugging Face folder: one file, or shards and their index.

    No shard is larger than `max_shard_size` (bytes, or "5GB") unless a single tensor is.
    """
    shards = _shards(tensors, _bytes(max_shard_size))
    if len(shards) <= 1:
        write(folder / SINGLE, tensors)
        return
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        write(folder / file, shard)
    totals = {
        "total_parameters": sum(a.size for a in tensors.values()),
        "total_size": sum(a.nbytes for a in tensors.values()),
    }
    where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    index = json.dumps({"metadata": totals, "weight_map": where}, indent=2, sort_keys=True) + "\n"
    (folder / INDEX).write_text(index, encoding="utf-8")
    sync(folder / INDEX)


def _read(path: Path, file: BinaryIO, place: Place) -> np.ndarray:
    try:
        return strided.read_plain(file, place.begin, place.spec.shape, place.spec.dtype)
    except EOFError:
        raise InputError(f"{path} was cut short while it was read") from None


def _bytes_of(tensor: Any, spec: Spec) -> memoryview:
    """A tensor as it lies in a file, in C order: one of another layout is copied, and no other."""
    array = np.asarray(tensor)
    assert array.shape == spec.shape and array.dtype == spec.dtype, (array.shape, array.dtype, spec)
    return np.ascontiguousarray(array, spec.dtype.newbyteorder("=")).reshape(-1).view(np.uint8).data


def _write_all(file: io.FileIO, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _shards(tensors: Mapping[str, Any], limit: int | None) -> list[dict[str, Any]]:
    """As transformers divides them: in the order given, a tensor above the limit by itself."""
    shards: list[dict[str, Any]] = []
    filling: dict[str, Any] = {}
    used = 0
    for name, tensor in tensors.items():
        size = tensor.nbytes
        if limit is not None and size > limit:
            shards.append({name: tensor})
            continue
        if limit is not None and used + size > limit:
            shards.append(filling)
            filling, used = {}, 0
        filling[name] = tensor
        used += size
    return [*shards, filling] if filling else shards


def _bytes(size: int | str | None) -> int | None:
    if size is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]B)?", str(size).strip().upper())
    if not found or float(found[1]) <= 0:
        raise InputError(f"max_shard_size must be a number of bytes or like '5GB', not {size!r}")
    return int(float(found[1]) * _UNITS.get(found[2], 1))
