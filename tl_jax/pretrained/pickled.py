"""Pickles read as data: an interpreter of the few opcodes that plain values need, and of no others.

A pickle is a program. Here it can make numbers, texts, lists, tuples and dicts, and call what the reader itself gives
it by name. Nothing is imported, no method or attribute of anything is touched, and what a hostile file can make it
hold is bounded by two figures below.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from tl_jax.pretrained.malformed import Malformed, shown

# A description of 100,000 tensors is below both; values of a pickle at these limits take some hundreds of megabytes.
MAX_BYTES = 1 << 25
MAX_STEPS = 1 << 22
_MAX_NAME = 256  # bytes of a line that names a global
_MAX_KEY = 1 << 60  # numbers beyond 2**61 can be made to collide, and then every look-up costs them all


@dataclass(frozen=True)
class Call:
    """What a pickle may call: `make` takes the tuple of arguments, which it must check."""

    make: Callable[[tuple[Any, ...]], Any]


def read(file: BinaryIO, known: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """The value of the pickle that starts where `file` stands; the file is left just behind it.

    `known` are the globals it may name, by dotted name: a `Call`, or a value that stands for itself. `persistent` makes
    a value of a persistent id. Raises `Malformed` for a pickle that is damaged, too large, names any other global, or
    does more than make plain values.
    """
    return _Machine(file, known, persistent).run()


def ordered(args: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    """`OrderedDict()`, or of a list of pairs, as Python 2 pickled it."""
    made: OrderedDict[Any, Any] = OrderedDict()
    if len(args) > 1 or not all(isinstance(pairs, (list, tuple)) for pairs in args):
        raise Malformed("makes an OrderedDict of something else than pairs")
    for pairs in args:
        for pair in pairs:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise Malformed("makes an OrderedDict of something else than pairs")
            made[_key(pair[0])] = pair[1]
    return made


class _Machine:
    """The stack machine: `marks` are the heights of the stack at its open marks."""

    def __init__(self, file: BinaryIO, known: Mapping[str, Any], persistent: Callable[[Any], Any]) -> None:
        self.file, self.known, self.persistent = file, known, persistent
        self.left = MAX_BYTES
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self.take(1)
            if code == pickle.STOP:
                return self.pop()
            step = _STEPS.get(code)
            if step is None:
                raise Malformed(f"has the pickle opcode {_opcode(code)}, which plain values do not need")
            step(self)
        raise Malformed(f"takes more than {MAX_STEPS:,} steps to describe its tensors, which no file of weights does")

    # -- what the steps are made of --------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The next bytes; a length above the limit is refused before anything is allocated for it."""
        self.left -= count
        if self.left < 0:
            raise Malformed(f"describes its tensors in more than {MAX_BYTES >> 20} MiB, which no file of weights does")
        found = self.file.read(count)
        if len(found) < count:
            raise Malformed("is truncated or damaged: it ends in the middle of its pickle")
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        found = self.file.readline(_MAX_NAME)
        self.left -= len(found)
        if not found.endswith(b"\n"):
            raise Malformed("is truncated or damaged: a name in its pickle does not end")
        return _text(found[:-1])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Malformed("is damaged: its pickle takes from an empty stack")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pops(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise Malformed("is damaged: its pickle looks for a mark that was never set")
        height = self.marks.pop()
        found = self.stack[height:]
        del self.stack[height:]
        return found

    def remember(self, at: int) -> None:
        self.memo[at] = self.top()

    def recall(self, at: int) -> None:
        if at not in self.memo:
            raise Malformed("is damaged: its pickle recalls what it never made")
        self.push(self.memo[at])

    def find(self, name: str) -> None:
        if name not in self.known:
            raise Malformed(
                f"names {shown(name)}, which weights do not need: it was neither imported nor called. Read are tensors "
                "and plain values; if you trust the file, load it with torch and save a state_dict() by itself"
            )
        self.push(self.known[name])

    def append(self, values: Iterable[Any]) -> None:
        into = self.top()
        if type(into) is not list:
            raise Malformed(f"is damaged: its pickle appends to a {type(into).__name__}")
        into.extend(values)

    def set_items(self, values: list[Any]) -> None:
        into = self.top()
        if type(into) not in (dict, OrderedDict) or len(values) % 2:
            raise Malformed(f"is damaged: its pickle sets items of a {type(into).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            into[_key(key)] = value

    # -- steps that are more than one line -------------------------------------------------------------------------

    def protocol(self) -> None:
        if (version := self.number("<B")) > pickle.HIGHEST_PROTOCOL:
            raise Malformed(f"is a pickle of protocol {version}, which is not known")

    def long(self) -> None:
        self.push(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def named(self) -> None:
        module = self.line()
        self.find(f"{module}.{self.line()}")

    def named_on_stack(self) -> None:
        module, name = self.pops(2)
        if type(module) is not str or type(name) is not str:
            raise Malformed("is damaged: its pickle names a global by something else than text")
        self.find(f"{module}.{name}")

    def reduce(self) -> None:
        function, args = self.pops(2)
        if not isinstance(function, Call):
            raise Malformed(f"calls a value, of the type {type(function).__name__}")
        if type(args) is not tuple:
            raise Malformed(f"calls with a {type(args).__name__} for arguments")
        self.push(function.make(args))

    def build(self) -> None:
        # state_dict() gives its OrderedDict an attribute with version numbers: the one state there is, and not needed.
        state, made = self.pop(), self.top()
        if type(made) is not OrderedDict or type(state) is not dict:
            raise Malformed(f"sets the state of a {type(made).__name__}, which is not done here")

    def persist(self) -> None:
        self.push(self.persistent(self.pop()))


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: _Machine.protocol,
    pickle.FRAME: lambda m: m.number("<Q"),
    pickle.MARK: lambda m: m.marks.append(len(m.stack)),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.number("<B")),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.LONG1: _Machine.long,
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.BINUNICODE: lambda m: m.push(_text(m.take(m.number("<I")))),
    pickle.SHORT_BINUNICODE: lambda m: m.push(_text(m.take(m.number("<B")))),
    pickle.BINUNICODE8: lambda m: m.push(_text(m.take(m.number("<Q")))),
    pickle.SHORT_BINSTRING: lambda m: m.push(_text(m.take(m.number("<B")))),  # texts of Python 2
    pickle.BINSTRING: lambda m: m.push(_text(m.take(m.number("<I")))),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.take(m.number("<B"))),
    pickle.BINBYTES: lambda m: m.push(m.take(m.number("<I"))),
    pickle.BINBYTES8: lambda m: m.push(m.take(m.number("<Q"))),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE: lambda m: m.push(tuple(m.since_mark())),
    pickle.TUPLE1: lambda m: m.push(m.pops(1)),
    pickle.TUPLE2: lambda m: m.push(m.pops(2)),
    pickle.TUPLE3: lambda m: m.push(m.pops(3)),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.APPEND: lambda m: m.append(m.pops(1)),
    pickle.APPENDS: lambda m: m.append(m.since_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.SETITEM: lambda m: m.set_items(list(m.pops(2))),
    pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
    pickle.BINGET: lambda m: m.recall(m.number("<B")),
    pickle.LONG_BINGET: lambda m: m.recall(m.number("<I")),
    pickle.BINPUT: lambda m: m.remember(m.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.GLOBAL: _Machine.named,
    pickle.STACK_GLOBAL: _Machine.named_on_stack,
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.persist,
}


def _key(value: Any) -> Any:
    """A key that is cheap to hash: a tuple of tuples of tuples could end the process."""
    if type(value) in (str, bool, type(None)) or (type(value) is int and abs(value) < _MAX_KEY):
        return value
    raise Malformed(f"has a dict with a {type(value).__name__} for a key: texts and numbers are expected")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("is damaged: a text in its pickle is not UTF-8") from None


def _opcode(code: bytes) -> str:
    return next((op.name for op in pickletools.opcodes if op.code.encode("latin-1") == code), f"0x{code.hex()}")
