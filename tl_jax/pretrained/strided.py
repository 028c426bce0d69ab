"""Reading numbers in a file, or a strided view of them, into memory of its own, in C order.

What is held beside the result is one buffer, whatever the strides: a transposed matrix is read in bands, a few columns
out of a wide one a piece at a time. Beside one that repeats itself along an axis it is once what it repeats.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

_BUFFER = 1 << 20  # bytes


def read(
    file: BinaryIO, start: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray:
    """The array of `shape` and `dtype` whose first element lies `start` bytes into `file`; strides are in elements,
    none negative. Raises `EOFError` where the file ends before the last element."""
    made = np.empty(shape, dtype)
    if made.size:
        _fill(file, start, strides, made)
    return made


def read_plain(file: BinaryIO, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The same where the file has the elements in C order."""
    made = np.empty(shape, dtype)
    if made.size:
        _read_into(file, start, made)
    return made


def _fill(file: BinaryIO, start: int, strides: tuple[int, ...], into: np.ndarray) -> None:
    size = into.dtype.itemsize
    if into.flags.c_contiguous and all(
        n == 1 or stride * size == theirs for n, stride, theirs in zip(into.shape, strides, into.strides, strict=True)
    ):
        _read_into(file, start, into)
        return
    once = tuple(1 if stride == 0 else n for n, stride in zip(into.shape, strides, strict=True))
    if once != into.shape:  # an axis that repeats one element is read once
        into[...] = read(file, start, once, strides, into.dtype)
        return
    reach = [(n - 1) * stride for n, stride in zip(into.shape, strides, strict=True)]
    span = sum(reach) + 1
    if span * size <= _BUFFER:
        buffer = np.empty(span, into.dtype)
        _read_into(file, start, buffer)
        steps = [stride * size if n > 1 else 0 for n, stride in zip(into.shape, strides, strict=True)]
        into[...] = np.ndarray(into.shape, into.dtype, buffer.view(np.uint8).data, strides=steps)
        return
    widest = int(np.argmax(reach))
    half = into.shape[widest] // 2
    first = (slice(None),) * widest
    _fill(file, start, strides, into[(*first, slice(half))])
    _fill(file, start + half * strides[widest] * size, strides, into[(*first, slice(half, None))])


def _read_into(file: BinaryIO, start: int, array: np.ndarray) -> None:
    raw = array.reshape(-1).view(np.uint8).data
    file.seek(start)
    if file.readinto(raw) < len(raw):  # type: ignore[attr-defined]
        raise EOFError
