"""Reading and writing safetensors: the tensors of files, and the one function of the project that serialises them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tl_jax.errors import InputError
from tl_jax.pretrained import tensor_files
from tl_jax.pretrained.tensor_files import Spec

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Tensors(tensor_files.Tensors):
    """The tensors of one or several safetensors files."""

    def _entries(self, path: Path) -> Iterator[tuple[str, Spec, Callable[[], np.ndarray]]]:
        opened = _open(path)
        for name in _header_names(path):
            part = opened.get_slice(name)
            dtype = part.get_dtype()
            if dtype not in _DTYPES:
                hint = "; dequantise the weights first" if dtype[:2] in ("F8", "F6", "F4") else ""
                raise InputError(f"{path}: the tensor {name!r} has the dtype {dtype}, which is not supported{hint}")
            spec = Spec(tuple(part.get_shape()), _DTYPES[dtype])
            yield name, spec, partial(_read, opened, name, spec.shape)


def write(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write one safetensors file: whole or not at all, on disk when this returns.

    `tensors` are numpy or JAX arrays of any memory layout. Raises `OSError` when the disk refuses; `path` is then as it
    was.
    """
    # The library writes the bytes as they lie in memory: any layout but C order would be scrambled without a word.
    arrays = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in tensors.items()}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        save_file(arrays, temporary, metadata={"format": "pt"})
        sync(temporary)
        os.replace(temporary, path)
    except SafetensorError as e:
        raise OSError(f"could not write {path}: {e}") from e
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


def sync(path: Path) -> None:
    """Have the system put a file, or a folder's list of names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="np")
    except SafetensorError as e:
        reason = str(e).removeprefix("Error while deserializing header: ")
        if pointer := tensor_files.lfs_pointer(path):
            raise InputError(pointer) from None
        if "not fully covered" in reason or "header length" in reason:
            raise InputError(f"{path} is truncated or damaged ({reason}): download or copy it again") from None
        raise InputError(f"{path} is not a safetensors file ({reason})") from None


def _read(opened: safe_open, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(opened.get_tensor(name)).reshape(shape)


def _header_names(path: Path) -> list[str]:
    """The names in a file's header, in its order and as often as they stand there."""
    with open(path, "rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    pairs: list[tuple[str, Any]] = json.loads(header, object_pairs_hook=list)
    return [name for name, _ in pairs if name != "__metadata__"]


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
