"""The two containers that torch writes: a zip of stored entries since 1.6, and before it pickles with bytes behind.

Either way a checkpoint is a pickle that describes tensors, and storages, whose bytes lie somewhere in the file.
"""

from __future__ import annotations

import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from tl_jax.pretrained import torch_pickles
from tl_jax.pretrained.malformed import Malformed, shown
from tl_jax.pretrained.torch_pickles import Storage

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # what a file before 1.6 begins with, as a pickled number
_PROTOCOL = 1001
_MAX_DIRECTORY = 1 << 24  # bytes of a zip's list of entries: some 200,000 of them
_LOCAL = struct.Struct("<4s5H3I2H")  # a zip entry's header, before its name


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's value, with views in place of tensors; where in the file each storage begins; the bytes' order."""

    value: Any
    places: dict[str, int]
    big_endian: bool = False


def read(file: BinaryIO) -> Checkpoint:
    """The checkpoint in an open file. Every storage lies in the file with all its bytes.

    Raises `Malformed` for what torch did not write, what is damaged, and what the restricted reader refuses.
    """
    start = file.read(len(_ZIP))
    file.seek(0)
    if start == _ZIP:
        return _read_zip(file)
    if start[:1] == b"\x80":
        return _read_legacy(file)
    if not start:
        raise Malformed("is empty: download or copy it again")
    raise Malformed("is not a PyTorch file: it is neither a zip nor a pickle")


# -- since torch 1.6 -----------------------------------------------------------------------------------------------


def _read_zip(file: BinaryIO) -> Checkpoint:
    try:
        with zipfile.ZipFile(cast(Any, _Bounded(file))) as archive:
            return _read_entries(file, archive)
    except Malformed:
        raise
    except (zipfile.BadZipFile, struct.error, EOFError, OSError, OverflowError, NotImplementedError, ValueError) as e:
        raise Malformed(f"is truncated or damaged ({e}): download or copy it again") from None


def _read_entries(file: BinaryIO, archive: zipfile.ZipFile) -> Checkpoint:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.orig_filename
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in PurePosixPath(name).parts:
            raise Malformed(f"has an entry {shown(name)}, which points outside of it")
        if name in entries:
            raise Malformed(f"has the entry {shown(name)} twice")
        entries[name] = entry
    found = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise Malformed(f"is a zip, but not one of torch's: it has {len(found) or 'no'} data.pkl")
    top = found[0].removesuffix("data.pkl")
    if f"{top}constants.pkl" in entries:
        raise Malformed("is a TorchScript program, not a checkpoint: save its state_dict() with torch.save")

    def seek(name: str) -> int:
        if top + name not in entries:
            raise Malformed(f"lacks the entry {shown(top + name)}: download or copy it again")
        file.seek(_begin(file, entries[top + name], archive.start_dir))
        return entries[top + name].file_size

    order = b"little"
    if f"{top}byteorder" in entries:
        order = file.read(min(seek("byteorder"), 16))
    if order not in (b"little", b"big"):
        raise Malformed(f"names the byte order {order!r}, which is neither little nor big")
    seek("data.pkl")
    pickle = torch_pickles.read(file)
    places = {}
    for key, storage in pickle.storages.items():
        _check_size(storage, seek(f"data/{key}"))
        places[key] = file.tell()
    return Checkpoint(pickle.value, places, order == b"big")


def _begin(file: BinaryIO, entry: zipfile.ZipInfo, end: int) -> int:
    """Where the bytes of an entry begin, which are there as they are: torch compresses nothing, so a bomb is none."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise Malformed(f"has the entry {shown(entry.orig_filename)} compressed or encrypted, which torch never does")
    file.seek(entry.header_offset)
    raw = file.read(_LOCAL.size)
    signature, _, flags, *_, name_length, extra_length = _LOCAL.unpack(raw)
    name = file.read(name_length).decode("utf-8" if flags & 0x800 else "cp437")
    begin = file.tell() + extra_length
    if signature != _ZIP or name != entry.orig_filename or begin + entry.file_size > end:
        raise Malformed(f"is truncated or damaged at {shown(entry.orig_filename)}: download or copy it again")
    return begin


class _Bounded:
    """A file for `zipfile`, which reads a list of entries at one go, however long it says that it is."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, count: int = -1) -> bytes:
        rest = max(_size(self._file) - self.tell(), 0)
        count = rest if count < 0 else min(count, rest)
        if count > _MAX_DIRECTORY:
            raise Malformed(f"has a list of entries above {_MAX_DIRECTORY >> 20} MiB, which no file of weights has")
        return self._file.read(count)


# -- before torch 1.6 ----------------------------------------------------------------------------------------------


def _read_legacy(file: BinaryIO) -> Checkpoint:
    """Pickles of a magic number, a version, the writer's system, the checkpoint and its storages' keys; then, for each
    key, its number of elements in eight bytes and the elements; all of it little-endian on every machine."""
    if torch_pickles.read_plain(file) != _MAGIC:
        raise Malformed("is a pickle, but not one that torch wrote")
    if (version := torch_pickles.read_plain(file)) != _PROTOCOL:
        raise Malformed(f"is of torch's protocol {version!r:.40}: {_PROTOCOL} is the one there is")
    torch_pickles.read_plain(file)
    pickle = torch_pickles.read(file)
    keys = torch_pickles.read_plain(file)
    if type(keys) is not list or not all(type(key) is str for key in keys) or len(set(keys)) < len(keys):
        raise Malformed("is damaged: its storages are not listed by their keys, each once")
    if astray := sorted(set(keys) ^ set(pickle.storages)):
        raise Malformed(f"is damaged: the storage {shown(astray[0])} is described or listed, but not both")
    end = _size(file)
    places = {}
    for key in keys:
        storage = pickle.storages[key]
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count < 0:
            raise Malformed(f"is damaged: its storage {shown(key)} has a negative size")
        _check_size(storage, count * storage.dtype.itemsize)
        places[key] = file.tell()
        if places[key] + storage.nbytes > end:
            raise Malformed("is truncated or damaged: its last tensors are missing; download or copy it again")
        file.seek(storage.nbytes, os.SEEK_CUR)
    return Checkpoint(pickle.value, places)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _check_size(storage: Storage, nbytes: int) -> None:
    if storage.nbytes != nbytes:
        raise Malformed(
            f"is damaged: the storage {shown(storage.key)} is described as {storage.nbytes:,} bytes, and has {nbytes:,}"
        )
