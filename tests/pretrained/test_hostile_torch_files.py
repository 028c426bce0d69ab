"""What others put in the place of torch's files is refused, and nothing of it runs."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pretrained import torch_forgery as forge
from tests.pretrained.torch_forgery import GOOD, a_dict, called, named, plain, program, storage, tensor
from tests.pretrained.torch_saves import CONTAINERS, MIB, refused
from tl_jax.errors import InputError
from tl_jax.pretrained import pickled, torch_containers
from tl_jax.pretrained.torch_files import SINGLE, Tensors
from tl_jax.pretrained.weights import read


class Runs:
    """Pickled, it calls `function(*args)` wherever it is loaded."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> Any:
        return self.reduced


def runs(function: Any, *args: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(Runs(function, *args), protocol)[2:-1]


def v3(of: bytes, offset: int, dtype: str) -> bytes:
    """Two numbers of `dtype` in a storage of bytes."""
    rebuild = named("torch._utils", "_rebuild_tensor_v3")
    place = (of, plain(offset), plain((2,)), plain((1,)))
    return called(rebuild, *place, plain(False), plain(None), named("torch", dtype))


def code(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would do something, and what is said of each. What most of them would do is make `marker`."""
    touch = f"touch {marker}"
    python = f"open({str(marker)!r}, 'w').close()"
    ordered = called(named("collections", "OrderedDict"))
    parameter = called(named("torch._utils", "_rebuild_parameter"), tensor(), plain(True), plain(None))
    of_bytes = storage(16, "0", named("torch.storage", "UntypedStorage"))
    return {
        "os.system": (runs(os.system, touch), r"names 'posix\.system'.*neither imported nor called"),
        "eval": (runs(eval, python), r"names '(builtins|__builtin__)\.eval'"),
        "exec": (runs(exec, python), r"names '(builtins|__builtin__)\.exec'"),
        "by protocol 4": (runs(os.system, touch, protocol=4), r"names 'posix\.system'"),
        "subprocess": (runs(subprocess.check_call, ["touch", str(marker)]), r"names '\w+\.check_call'"),
        "an import alone": (named("hostile_module", "thing"), r"names 'hostile_module\.thing'"),
        "beside tensors": (a_dict(a=tensor(), b=runs(os.system, touch)), r"names 'posix\.system'"),
        "getattr": (called(named("builtins", "getattr"), plain("x"), plain("y")), r"names 'builtins\.getattr'"),
        "a dotted name": (named("torch", "serialization.os.system"), r"names 'torch\.serialization\.os\.system'"),
        "torch.load": (called(named("torch", "load"), plain(str(marker))), r"names 'torch\.load'"),
        "bytes to load": (named("torch.storage", "_load_from_bytes"), r"names 'torch\.storage\._load_from_bytes'"),
        "a name with a bell": (plain("\a") + plain("\x1b[2J") + b"\x93", r"names '\\x07\.\\x1b\[2J'"),
        "a long name": (plain("a" * 99999) + plain("b") + b"\x93", r"names 'a{100}\\u2026'"),
        "nested REDUCE": (called(ordered, plain("x")), "calls a value, of the type OrderedDict"),
        "a called tensor": (called(tensor(), plain("x")), "calls a value, of the type View"),
        "a called dtype": (called(named("torch", "float32")), "calls a value, of the type Float32DType"),
        "a called storage type": (called(named("torch", "FloatStorage")), "calls a value, of the type StorageType"),
        "REDUCE without a tuple": (named("torch", "Size") + b"]R", "calls with a list for arguments"),
        "BUILD of a parameter": (parameter + plain({"__setstate__": 1}) + b"b", "sets the state of a View"),
        "BUILD of a dict": (b"}" + plain({"__class__": "x"}) + b"b", "sets the state of a dict"),
        "BUILD of a type": (named("torch", "FloatStorage") + b"}b", "sets the state of a StorageType"),
        "BUILD by slots": (ordered + plain((None, {"x": 1})) + b"b", "sets the state of a OrderedDict"),
        "NEWOBJ": (named("collections", "OrderedDict") + b")\x81", "the pickle opcode NEWOBJ"),
        "OBJ": (b"(" + named("collections", "OrderedDict") + b"o", "the pickle opcode OBJ"),
        "INST": (b"(icollections\nOrderedDict\n", "the pickle opcode INST"),
        "EXT1": (b"\x82\x01", "the pickle opcode EXT1"),
        "no opcode at all": (b"\xff", "the pickle opcode 0xff"),
        "a persistent module": (plain(("module", "x", "f.py", "code")) + b"Q", "a persistent id that is no storage"),
        "a persistent text": (plain("storage") + b"Q", "a persistent id that is no storage"),
        "a storage of no type": (storage(4, "0", plain("FloatStorage")), "a storage by something else than"),
        "a made-up part": (a_dict(a=tensor((4,), (1,), 0, plain((1, 2, 3)))), "something else than a storage"),
        "a storage in two ways": (storage() + storage(8), "the storage '0' in two ways"),
        "another dtype": (v3(storage(), 0, "float64"), "takes the storage '0' of float32 for float64"),
        "bytes too few": (v3(of_bytes, 1, "int64"), "reaches beyond its storage"),
    }


@CONTAINERS
@pytest.mark.parametrize("name", list(code(Path("x"))))
def test_code_is_refused_by_its_name_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, name: str
) -> None:
    marker = tmp_path / "made"
    (tmp_path / "hostile_module.py").write_text(f"thing = open({str(marker)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    opcodes, says = code(marker)[name]
    path = (forge.write_zip if zipped else forge.write_legacy)(tmp_path / "a.bin", opcodes)
    assert re.search(says, refused(path))
    assert not marker.exists() and "hostile_module" not in sys.modules


def test_what_would_run_does_run_elsewhere(tmp_path: Path) -> None:
    """The pickles above are loaded guns: Python's own unpickler fires one."""
    marker = tmp_path / "made"
    pickle.loads(program(runs(exec, f"open({str(marker)!r}, 'w').close()")))
    assert marker.exists()


def test_no_pickle_of_the_older_container_runs_code(tmp_path: Path) -> None:
    """The magic number, the version, the system and the keys are pickles too."""
    marker, path = tmp_path / "made", tmp_path / "a.bin"
    evil = program(runs(os.system, f"touch {marker}"))
    parts = [program(plain(x)) for x in (forge.MAGIC, forge.PROTOCOL, {})] + [program(GOOD), program(plain(["0"]))]
    for i in range(len(parts)):
        path.write_bytes(b"".join([*parts[:i], evil, *parts[i + 1 :]]))
        assert "names 'posix.system'" in refused(path)
    assert not marker.exists()


TENSORS = {
    "a shape beyond its storage": (tensor((5,)), "reaches beyond its storage '0'"),
    "an offset beyond it": (tensor((4,), (1,), 1), "reaches beyond its storage '0'"),
    "strides beyond it": (tensor((2, 2), (3, 1)), "reaches beyond its storage '0'"),
    "a negative offset": (tensor((1,), (1,), -1), "not numbers from 0 upward"),
    "a negative stride": (tensor((2,), (-1,), 1), "not numbers from 0 upward"),
    "a negative shape": (tensor((-4,)), "not numbers from 0 upward"),
    "a shape that is true": (tensor((True,)), "not numbers from 0 upward"),
    "a shape of fractions": (tensor((1.0,)), "not numbers from 0 upward"),
    "fewer strides": (tensor((2, 2), (1,)), "not numbers from 0 upward"),
    "a shape of text": (tensor("22", (1, 1)), "not numbers from 0 upward"),
    "an overflow": (tensor((1 << 33, 1 << 33), (0, 0)), "too large for any memory"),
    "an empty overflow": (tensor((0, 1 << 62, 1 << 62), (1, 1, 1)), "too large for any memory"),
    "sixty-five axes": (tensor((1,) * 65, (1,) * 65), "too large for any memory"),
    "an expansion of a terabyte": (tensor((1 << 20, 1 << 18), (0, 0)), "1,099,511,627,776 bytes of tensors in"),
    "a huge number": (tensor((1 << 2000,), (0,)), "not numbers from 0 upward"),
    "a storage of minus four": (tensor((4,), (1,), 0, storage(-4)), "by something else than its type, key and size"),
    "a storage of 2**70": (tensor((4,), (1,), 0, storage(1 << 70)), "by something else than its type, key and size"),
    "a storage of a terabyte": (tensor((4,), (1,), 0, storage(1 << 38)), "described as 1,099,511,627,776 bytes"),
    "a storage too small": (tensor((2,), (1,), 0, storage(2)), "described as 8 bytes, and has 16"),
    "another storage": (tensor((4,), (1,), 0, storage(4, "../0")), "'../0'|'w/data/../0'"),
    "a storage by number": (tensor((4,), (1,), 0, storage(4, 0)), "by something else than its type, key and size"),
    "no arguments": (called(named("torch._utils", "_rebuild_tensor_v2")), "something else than a storage"),
    "a parameter of none": (
        called(named("torch._utils", "_rebuild_parameter"), plain(None), plain(True), plain(None)),
        "a parameter of something else",
    ),
    "a size of text": (called(named("torch", "Size"), plain("ab")), "a torch.Size of something else"),
}


@CONTAINERS
@pytest.mark.parametrize("name", list(TENSORS))
def test_tensors_that_lie(tmp_path: Path, zipped: bool, name: str) -> None:
    opcodes, says = TENSORS[name]
    path = (forge.write_zip if zipped else forge.write_legacy)(tmp_path / "a.bin", a_dict(a=opcodes))
    tracemalloc.start()
    said = refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert re.search(says, said)
    assert peak < 4 * MIB


PICKLES = {
    "a text of 4 GiB": (b"X\xff\xff\xff\xff", "more than 32 MiB"),
    "a text of 2**60": (b"\x8d" + struct.pack("<Q", 1 << 60), "more than 32 MiB"),
    "bytes of 20 MiB": (b"B" + struct.pack("<I", 20 * MIB), "in the middle of its pickle"),
    "a text that is none": (b"X\x01\0\0\0\xff", "not UTF-8"),
    "a name without an end": (b"c" + b"x" * 9999, "a name in its pickle does not end"),
    "a key of tuples": (b"}" + b")" + b"\x85" * 100_000 + b"Ns", "a tuple for a key"),
    "a key of a tensor": (b"}" + tensor() + b"Ns", "a View for a key"),
    "a key that collides": (b"}" + plain((1 << 61) - 1) + b"Ns", "a int for a key"),
    "an odd number of items": (b"}(NNNu", "sets items of a dict"),
    "items of a list": (b"](NNu", "sets items of a list"),
    "appended to a dict": (b"}Na", "appends to a dict"),
    "an opcode to drop": (b"N0", "the pickle opcode POP"),
    "a stack below its mark": (b"N(a", "takes from an empty stack"),
    "no mark": (b"Nt", "a mark that was never set"),
    "no memory": (b"h\x07", "recalls what it never made"),
    "a global of numbers": (plain(1) + plain(2) + b"\x93", "a global by something else than text"),
    "pairs that are none": (called(named("collections", "OrderedDict"), plain([1, 2])), "something else than pairs"),
    "protocol 9": (b"\x80\x09N", "a pickle of protocol 9"),
    "tuples in tuples": (a_dict(a=b")" + b"\x85" * 200_000), "no dict of tensors by name"),
    "a list in itself": (b"]q\x00h\x00a", "no dict of tensors by name, but a list"),
    "a dict in itself": (b"}q\x00" + plain("a") + b"h\x00s", "no dict of tensors by name, but a dict"),
    "dicts too deep": (b"}" + b"".join(plain("a") + b"}" for _ in range(50_000)) + b"s" * 50_000, "no dict of tensors"),
    "a marathon of nothing": (b"}" * 5_000_000, "more than 4,194,304 steps"),
}


@pytest.mark.parametrize("name", list(PICKLES))
def test_pickles_that_would_fill_memory_or_the_stack(tmp_path: Path, name: str) -> None:
    opcodes, says = PICKLES[name]
    path = forge.write_zip(tmp_path / "a.bin", opcodes)
    if "marathon" in name:  # tracing each of its objects takes longer than making it
        assert says in refused(path)
        return
    tracemalloc.start()
    said = refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert says in said
    assert peak < 64 * MIB


def test_dicts_that_share_dicts_are_seen_once(tmp_path: Path) -> None:
    """Each level holds the one below a thousand times, under long names: as a tree it would be 10⁹ dicts."""
    level = a_dict(a=tensor()) + b"q\x09"
    for _ in range(3):
        level += b"}" + b"".join(plain(f"{i:0999d}")[:-2] + b"h\x09s" for i in range(1000)) + b"q\x09"
    path = forge.write_zip(tmp_path / "a.bin", level)
    tracemalloc.start()
    assert Tensors([path])["a"].tolist() == [1.0] * 4
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * MIB


def _renamed(path: Path) -> None:
    """The name in an entry's own header differs from the one in the list."""
    path.write_bytes(path.read_bytes().replace(b"w/data/0", b"w/data/1", 1))


def _long_list(path: Path) -> None:
    """The list of entries claims most of the file, which is large."""
    filled = path.read_bytes() + b"\0" * (20 * MIB)
    path.write_bytes(filled + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, 18 * MIB, len(filled) - 18 * MIB, 0))


def _flagged(at: int, value: int) -> Callable[[Path], None]:
    """Sets a byte in the list's entry for data.pkl, its first."""

    def flag(path: Path) -> None:
        whole = bytearray(path.read_bytes())
        whole[whole.index(b"PK\x01\x02") + at] |= value
        path.write_bytes(whole)

    return flag


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


ZIPS: dict[str, tuple[dict[str, Any], Callable[[Path], None] | None, str]] = {
    "truncated": ({}, _halved, "is truncated or damaged"),
    "compressed": ({"how": zipfile.ZIP_DEFLATED}, None, "'w/byteorder' compressed or encrypted"),
    "a bomb": ({"how": zipfile.ZIP_LZMA, "entries": {"w/data/0": b"\0" * (40 * MIB)}}, None, "compressed or encrypted"),
    "encrypted": ({}, _flagged(8, 1), "'w/data.pkl' compressed or encrypted"),
    "compressed to its own size": ({}, _flagged(10, zipfile.ZIP_DEFLATED), "'w/data.pkl' compressed or encrypted"),
    "an entry above": ({"entries": {"../../etc/passwd": b""}}, None, "'../../etc/passwd', which points outside"),
    "an entry from the root": ({"entries": {"/etc/passwd": b""}}, None, "'/etc/passwd', which points outside"),
    "an entry of Windows": ({"entries": {"w\\..\\x": b""}}, None, "which points outside"),
    "two pickles": ({"entries": {"v/data.pkl": b""}}, None, "not one of torch's: it has 2 data.pkl"),
    "TorchScript": ({"entries": {"w/constants.pkl": b""}}, None, "is a TorchScript program"),
    "another name in the header": ({}, _renamed, "is truncated or damaged at 'w/data/0'"),
    "a middle-endian machine": ({"entries": {"w/byteorder": b"middle"}}, None, "the byte order b'middle'"),
    "a storage too long": ({"entries": {"w/data/0": b"\0" * 20}}, None, "described as 16 bytes, and has 20"),
    "a storage too short": ({"entries": {"w/data/0": b"\0" * 12}}, None, "described as 16 bytes, and has 12"),
    "no storage": ({"opcodes": a_dict(a=tensor((4,), (1,), 0, storage(4, "7")))}, None, "lacks the entry 'w/data/7'"),
    "a long list of entries": ({}, _long_list, "a list of entries above 16 MiB"),
}


@pytest.mark.parametrize("name", list(ZIPS))
def test_zips_that_torch_never_wrote(tmp_path: Path, name: str) -> None:
    options, spoil, says = ZIPS[name]
    path = forge.write_zip(tmp_path / "a.bin", **options)
    if spoil:
        spoil(path)
    tracemalloc.start()
    said = refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert says in said
    assert peak < 4 * MIB


def test_a_zip_of_more_than_4_gib_as_it_is_written(tmp_path: Path) -> None:
    """Sizes and places of 64 bits, which a reader must not take from the header before an entry."""
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        for name, content in {"w/data.pkl": program(GOOD), "w/data/0": forge.FOUR}.items():
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(content)
    assert Tensors([tmp_path / "a.bin"])["a"].tolist() == [1.0] * 4


def test_an_entry_that_stands_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        archive.writestr("w/data.pkl", program(GOOD))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("w/data.pkl", program(GOOD))
    assert "has the entry 'w/data.pkl' twice" in refused(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": b""}, "described as 16 bytes, and has 0"),
        ({"data": (4).to_bytes(8, "little") + b"\0" * 12}, "its last tensors are missing"),
        ({"data": (1 << 40).to_bytes(8, "little") + b"\0" * 16}, "described as 16 bytes, and has 4,398,046,511,104"),
        ({"data": b"\xff" * 24}, "its storage '0' has a negative size"),
        ({"keys": ["0", "0"]}, "not listed by their keys, each once"),
        ({"keys": [0]}, "not listed by their keys, each once"),
        ({"keys": []}, "the storage '0' is described or listed, but not both"),
        ({"keys": ["0", "1"]}, "the storage '1' is described or listed, but not both"),
    ],
)
def test_older_files_that_torch_never_wrote(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    assert says in refused(forge.write_legacy(tmp_path / "a.th", **options))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "is not a PyTorch file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:53aa\n", "is a Git LFS pointer.*git lfs pull"),
        (pickle.dumps({"a": 1}, 2), "is a pickle, but not one that torch wrote"),
        (pickle.dumps(np.ones(3), 2), r"names 'numpy\._?core\.multiarray\._reconstruct'"),
        (program(plain(forge.MAGIC)) + program(plain(1002)), "is of torch's protocol 1002: 1001 is the one"),
        (program(plain(forge.MAGIC + 1)), "not one that torch wrote"),
        (b"PK\x03\x04" + b"\0" * 100, "is truncated or damaged"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(InputError, match=rf"pytorch_model\.bin .*{says}|pytorch_model\.bin {says}"):
        read(tmp_path)


@given(st.data(), st.booleans())
def test_damaged_at_any_place(tmp_path_factory: Any, data: st.DataObject, zipped: bool) -> None:
    """A file with some bytes changed, or cut short, is read or refused; nothing else happens."""
    folder = tmp_path_factory.mktemp("d")
    path = (forge.write_zip if zipped else forge.write_legacy)(folder / "a.bin", a_dict(a=tensor(), b=plain([1, "x"])))
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))])
    try:
        found = Tensors([path])
        assert all(found[name].shape == spec.shape for name, spec in found.specs.items())
    except InputError as e:
        assert str(path) in str(e)


def test_the_limits_leave_room_for_large_models() -> None:
    """Torch's own description of a hundred tensors, a thousand times."""
    import torch

    made = io.BytesIO()
    theirs = {f"model.layers.{i}.attention.self.query.lora_A.weight": torch.ones(1, 1) for i in range(100)}
    torch.save(theirs, made, _use_new_zipfile_serialization=False)
    assert len(made.getvalue()) * 1000 < pickled.MAX_BYTES
    assert torch_containers._MAX_DIRECTORY > 70 * 100_000
