"""What the pickles of torch say of tensors: storages of numbers, and views of them by offset, shape and strides.

No tensor is made here: a `View` says where its numbers lie, and has been checked against its storage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from tl_jax.pretrained import pickled
from tl_jax.pretrained.malformed import Malformed, shown
from tl_jax.pretrained.pickled import Call
from tl_jax.pretrained.tensor_files import too_large

_DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint64": np.dtype(np.uint64),
    "uint32": np.dtype(np.uint32),
    "uint16": np.dtype(np.uint16),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
_MAX_COUNT = 1 << 62


@dataclass(frozen=True)
class StorageType:
    """The type of a storage: what its elements are. Bytes (`uint8`) for a storage without a type."""

    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Storage:
    """`count` numbers in a row, kept in the file under `key`."""

    key: str
    dtype: np.dtype[Any]
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Part:
    """A run of a storage's numbers: all of them, but in old files that keep views of storages."""

    storage: Storage
    first: int
    count: int


@dataclass(frozen=True)
class View:
    """A tensor: its element `[i, j, …]` lies `start` bytes and `i·strides[0] + j·strides[1] + …` elements into the
    storage of that key."""

    key: str
    dtype: np.dtype[Any]
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass
class Pickled:
    """What a checkpoint's pickle holds: its value, with `View` in place of tensors, and the storages by key."""

    value: Any = None
    storages: dict[str, Storage] = field(default_factory=dict)


def read(file: BinaryIO) -> Pickled:
    """The checkpoint whose pickle starts where `file` stands; raises `Malformed` as `pickled.read` does.

    It also raises that for a tensor which reaches beyond its storage, and for two storages of one key.
    """
    found = Pickled()

    def part(pid: Any) -> Part:
        made = _part(pid)
        if found.storages.setdefault(made.storage.key, made.storage) != made.storage:
            raise Malformed(f"describes the storage {shown(made.storage.key)} in two ways")
        return made

    found.value = pickled.read(file, _KNOWN, part)
    return found


def read_plain(file: BinaryIO) -> Any:
    """The value of a pickle that names nothing."""

    def refuse(pid: Any) -> Any:
        raise Malformed("has a storage where none belongs")

    return pickled.read(file, {}, refuse)


def _part(pid: Any) -> Part:
    """A storage, or a part of one, by its persistent id.

    That is `("storage", type, key, device, count)`, and before torch 1.6 one more: None, or `(key of the part, its
    offset, its count)`.
    """
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        raise Malformed("has a persistent id that is no storage")
    _, kind, key, _, count = pid[:5]
    if not isinstance(kind, StorageType) or type(key) is not str or not _is_count(count):
        raise Malformed("describes a storage by something else than its type, key and size")
    whole = Storage(key, kind.dtype, count)
    if len(pid) == 5 or pid[5] is None:
        return Part(whole, 0, count)
    if type(pid[5]) is not tuple or len(pid[5]) != 3 or not _are_counts(pid[5][1:]):
        raise Malformed(f"describes a part of the storage {shown(key)} by something else than its place")
    part = Part(whole, *pid[5][1:])
    if part.first + part.count > count:
        raise Malformed(f"has a part that reaches beyond the storage {shown(key)}")
    return part


def _tensor(args: tuple[Any, ...]) -> View:
    """`_rebuild_tensor(storage, offset, shape, strides)`; `_v2` has requires_grad, hooks, and metadata at most."""
    if not 4 <= len(args) <= 7 or not isinstance(args[0], Part):
        raise Malformed("makes a tensor of something else than a storage and a place in it")
    return _view(args, args[0].storage.dtype, args[6] if len(args) > 6 else None)


def _typed_tensor(args: tuple[Any, ...]) -> View:
    """`_rebuild_tensor_v3`: as `_v2`, of a storage of bytes, with the dtype before the metadata."""
    if not 7 <= len(args) <= 8 or not isinstance(args[0], Part) or not isinstance(args[6], np.dtype):
        raise Malformed("makes a tensor of something else than a storage, a place in it and a dtype")
    return _view(args, args[6], args[7] if len(args) > 7 else None)


def _view(args: tuple[Any, ...], dtype: np.dtype[Any], metadata: Any) -> View:
    part, offset, shape, strides = args[:4]
    of, size = part.storage, dtype.itemsize
    if not _is_count(offset) or not _are_counts(shape) or not _are_counts(strides) or len(shape) != len(strides):
        raise Malformed("makes a tensor whose offset, shape and strides are not numbers from 0 upward")
    if metadata:
        raise Malformed("holds a tensor that is negated or conjugated when it is read: save it resolved")
    if too_large(shape, size):
        raise Malformed("holds a tensor too large for any memory")
    if of.dtype not in (dtype, np.uint8):
        raise Malformed(f"takes the storage {shown(of.key)} of {of.dtype} for {dtype}")
    if 0 not in shape:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if (last + 1) * size > part.count * of.dtype.itemsize:
            raise Malformed(f"holds a tensor that reaches beyond its storage {shown(of.key)}")
    return View(of.key, dtype, part.first * of.dtype.itemsize + offset * size, tuple(shape), tuple(strides))


def _parameter(args: tuple[Any, ...]) -> View:
    """`_rebuild_parameter(tensor, requires_grad, hooks)`, and what `_with_state` adds."""
    if not 3 <= len(args) <= 4 or not isinstance(args[0], View):
        raise Malformed("makes a parameter of something else than a tensor")
    return args[0]


def _size(args: tuple[Any, ...]) -> tuple[int, ...]:
    if len(args) != 1 or not _are_counts(args[0]):
        raise Malformed("makes a torch.Size of something else than numbers")
    return tuple(args[0])


def _device(args: tuple[Any, ...]) -> None:
    """Where a tensor lay is of no interest."""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _are_counts(values: Any) -> bool:
    return type(values) in (tuple, list) and all(_is_count(n) for n in values)


_KNOWN = {
    "collections.OrderedDict": Call(pickled.ordered),
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_tensor_v3": Call(_typed_tensor),
    "torch._utils._rebuild_parameter": Call(_parameter),
    "torch._utils._rebuild_parameter_with_state": Call(_parameter),
    "torch.Size": Call(_size),
    "torch.device": Call(_device),
    "torch.storage.UntypedStorage": StorageType(np.dtype(np.uint8)),
    **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
    **{f"torch.{name}Storage": StorageType(_DTYPES[dtype]) for name, dtype in _STORAGES.items()},
}
