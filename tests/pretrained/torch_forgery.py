"""Checkpoints that torch would never write: pickles put together opcode by opcode, in both containers."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def plain(value: Any) -> bytes:
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def called(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def storage(count: Any = 4, key: Any = "0", kind: bytes = b"", *more: bytes) -> bytes:
    kind = kind or named("torch", "FloatStorage")
    return b"(" + plain("storage") + kind + plain(key) + plain("cpu") + plain(count) + b"".join(more) + b"tQ"


def tensor(shape: Any = (4,), strides: Any = (1,), offset: Any = 0, of: bytes = b"", *more: bytes) -> bytes:
    rebuild = named("torch._utils", "_rebuild_tensor_v2")
    place = (of or storage(), plain(offset), plain(shape), plain(strides))
    return called(rebuild, *place, plain(False), called(named("collections", "OrderedDict")), *more)


def a_dict(**items: bytes) -> bytes:
    return b"}(" + b"".join(plain(name) + item for name, item in items.items()) + b"u"


def program(opcodes: bytes, protocol: int = 2) -> bytes:
    return bytes((0x80, protocol)) + opcodes + b"."


FOUR = b"\0\0\x80?" * 4  # 1.0 four times
GOOD = a_dict(a=tensor())


def write_zip(
    path: Path, opcodes: bytes = GOOD, entries: dict[str, bytes] | None = None, how: int = zipfile.ZIP_STORED
) -> Path:
    """A zip of `opcodes` and one storage of four floats; `entries` are put into it or take the place of others."""
    held = {"w/data.pkl": program(opcodes), "w/byteorder": b"little", "w/data/0": FOUR, "w/version": b"3\n"}
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in {**held, **(entries or {})}.items():
            archive.writestr(name, content)
    return path


def write_legacy(
    path: Path, opcodes: bytes = GOOD, keys: Any = ("0",), data: bytes = (4).to_bytes(8, "little") + FOUR
) -> Path:
    heads = (MAGIC, PROTOCOL, {"little_endian": True})
    parts = [program(plain(head)) for head in heads] + [program(opcodes), program(plain(list(keys))), data]
    path.write_bytes(b"".join(parts))
    return path
