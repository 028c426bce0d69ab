"""The header of a safetensors file: what tensors it holds and where they lie, read with suspicion and written as the
reference writes it, to the byte.

A file is the header's length in 8 bytes, the header in JSON, and the tensors' bytes, little-endian and in C order.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from tl_jax.errors import InputError
from tl_jax.pretrained.malformed import Malformed, shown
from tl_jax.pretrained.tensor_files import Spec, too_large

# In the order of a file: wide numbers first, so that each lies at a multiple of its width.
DTYPES = {
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = 8  # bytes of the header's length, and what its end is padded to
_MAX_HEADER = 1 << 24  # bytes: a description of more than 100,000 tensors
_METADATA = "__metadata__"
_AGAIN = "download or copy it again"


@dataclass(frozen=True)
class Place:
    """A tensor of a file: what it is, and the byte it begins at."""

    spec: Spec
    begin: int


def read(file: BinaryIO) -> dict[str, Place]:
    """The tensors of a file that is open at its start, in the order of its header.

    Each lies in the file with all its bytes, no two share one, and none is left over. Raises `Malformed` for a file
    that is anything else, and for a dtype that is not computed with. Allocates no more than the header's own size asks.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(_LENGTH)
    length = int.from_bytes(start, "little")
    if len(start) == _LENGTH and length > _MAX_HEADER:
        raise Malformed(f"is not a safetensors file (its header would have {length:,} bytes)")
    if len(start) < _LENGTH or _LENGTH + length > size:
        raise Malformed(f"is truncated or damaged (it ends in its header): {_AGAIN}")
    entries = _parsed(file.read(length))
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict):
        raise _not_one("its metadata are no texts by name")
    first = _LENGTH + length
    found = {name: _placed(name, entry, size - first) for name, entry in entries.items()}
    _check_gapless(found, size - first)
    return {name: Place(spec, first + begin) for name, (spec, begin, _) in found.items()}


def written(specs: Mapping[str, Spec]) -> tuple[bytes, list[str]]:
    """The header of a file of such tensors, its length in front, and the order in which their bytes follow.

    Raises `InputError` for what a file cannot hold: a dtype, a name that is no text.
    """
    if refused := [name for name in specs if name == _METADATA or not _is_text(name)]:
        raise InputError(f"a safetensors file cannot hold a tensor of the name {shown(refused[0])}")
    order = sorted(specs, key=lambda name: (list(DTYPES).index(dtype_name(specs[name].dtype)), name))
    entries: dict[str, Any] = {_METADATA: {"format": "pt"}}  # which transformers of old insists on
    end = 0
    for name in order:
        spec, begin = specs[name], end
        end += math.prod(spec.shape) * spec.dtype.itemsize
        entries[name] = {"dtype": dtype_name(spec.dtype), "shape": list(spec.shape), "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    header += b" " * (-len(header) % _LENGTH)
    return len(header).to_bytes(_LENGTH, "little") + header, order


def dtype_name(dtype: np.dtype[Any]) -> str:
    """What a safetensors file calls a dtype, in whichever byte order; raises `InputError` for one it has no name of."""
    try:
        return _NAMES[dtype.newbyteorder("=")]
    except KeyError:
        raise InputError(f"a safetensors file cannot hold numbers of the dtype {dtype}") from None


def _parsed(header: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in pairs:
            if name in made:
                raise Malformed(f"is damaged: {shown(name)} is listed twice in its header")
            made[name] = value
        return made

    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError) as e:
        if isinstance(e, Malformed):
            raise
        raise _not_one("its header is not JSON") from None
    if not isinstance(entries, dict):
        raise _not_one("its header is no JSON object")
    return entries


def _placed(name: str, entry: Any, size: int) -> tuple[Spec, int, int]:
    """A tensor's description, and where its bytes begin and end among the `size` bytes behind the header."""
    if not _is_text(name):
        raise _not_one(f"{shown(name)} is no text")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _not_one(f"{shown(name)} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _not_one(f"the shape and offsets of {shown(name)} are not numbers from 0 upward")
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        hint = "; dequantise the weights first" if str(kind)[:2] in ("F8", "F6", "F4") else ""
        raise Malformed(f"holds the tensor {shown(name)} of the dtype {shown(str(kind))}, which is not supported{hint}")
    spec = Spec(tuple(shape), dtype)
    if too_large(shape, spec.dtype.itemsize):
        raise Malformed(f"is damaged: its tensor {shown(name)} is too large for any memory")
    begin, end = offsets
    nbytes = math.prod(shape) * spec.dtype.itemsize
    if end - begin != nbytes:
        raise Malformed(f"is damaged: its tensor {shown(name)} needs {nbytes:,} bytes, and has {end - begin:,}")
    if end > size:
        raise Malformed(f"is truncated or damaged ({shown(name)} reaches beyond its end): {_AGAIN}")
    return spec, begin, end


def _check_gapless(found: Mapping[str, tuple[Spec, int, int]], size: int) -> None:
    end, before = 0, "the header"
    for name, (_, begin, after) in sorted(found.items(), key=lambda item: item[1][1:]):
        if begin != end:
            what = "overlap" if begin < end else "have bytes of no tensor between them"
            raise Malformed(f"is damaged: {before} and {shown(name)} {what}")
        end, before = after, shown(name)
    if end != size:
        raise Malformed(f"is damaged: {size - end:,} bytes follow its last tensor")


def _is_text(name: str) -> bool:
    """Whether UTF-8 can hold it: JSON can also name halves of characters."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def _are_counts(values: Any) -> bool:
    return type(values) is list and all(type(n) is int and n >= 0 for n in values)


def _not_one(why: str) -> Malformed:
    return Malformed(f"is not a safetensors file ({why})")
