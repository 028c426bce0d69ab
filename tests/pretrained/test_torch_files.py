"""What torch saves is read bit for bit; what others put in its place is refused, and nothing of it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pretrained import torch_forgery as forge
from tests.pretrained.torch_forgery import GOOD, a_dict, called, named, plain, program, storage, tensor
from tl_jax.errors import InputError
from tl_jax.pretrained import pickled, strided, torch_containers
from tl_jax.pretrained.torch_files import INDEX, SINGLE, Tensors
from tl_jax.pretrained.weights import read

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split()
CONTAINERS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
MIB = 1 << 20


def save(value: Any, path: Path, zipped: bool = True, **options: Any) -> Path:
    import torch

    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def bits(torchs: Any) -> bytes:
    import torch

    flat = torch.empty(torchs.shape, dtype=torchs.dtype).copy_(torchs.detach()).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""


def assert_same(found: Tensors, theirs: dict[str, Any]) -> None:
    assert set(found) == set(theirs)
    for name, torchs in theirs.items():
        array = found[name]
        assert found.specs[name].shape == array.shape == tuple(torchs.shape), name
        assert found.specs[name].dtype == array.dtype and f"torch.{array.dtype}" == str(torchs.dtype), name
        assert array.flags.c_contiguous and array.flags.owndata and array.flags.writeable, name
        assert array.tobytes() == bits(torchs), name


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        dict(Tensors([path]))
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 600
    return message


# -- what torch saves ----------------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """Tensors of any dtype over any part of a storage: transposed, strided, expanded, overlapping, empty, 0-dim."""
    import torch

    dtype = getattr(torch, draw(st.sampled_from(DTYPES)))
    raw = draw(st.binary(min_size=1, max_size=40)) * 8
    if dtype == torch.bool:
        raw = bytes(b % 2 for b in raw)
    base = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype)
    shape, strides = [], []
    offset = min(draw(st.integers(0, 2)), len(base) - 1)
    last = offset
    for _ in range(draw(st.integers(0, 4))):
        stride = draw(st.integers(0, 5))
        most = (len(base) - 1 - last) // stride if stride else 3
        count = draw(st.integers(0, 1 + min(most, 4)))
        last += max(count - 1, 0) * stride
        shape.append(count)
        strides.append(stride)
    made = base.as_strided(shape, strides, offset)
    return torch.nn.Parameter(made, requires_grad=False) if draw(st.booleans()) else made


@given(st.dictionaries(st.text(max_size=5), tensors(), min_size=1, max_size=4), st.booleans(), st.integers(2, 4))
def test_what_torch_saves_is_read_to_the_bit(
    tmp_path_factory: Any, theirs: dict[str, Any], zipped: bool, protocol: int
) -> None:
    path = save(theirs, tmp_path_factory.mktemp("t") / SINGLE, zipped, pickle_protocol=protocol)
    assert_same(Tensors([path]), theirs)


@CONTAINERS
def test_every_dtype(tmp_path: Path, zipped: bool, rng: np.random.Generator) -> None:
    import torch

    raw = torch.from_numpy(rng.integers(0, 2, 48, np.uint8))
    theirs = {name: raw.view(getattr(torch, name)) for name in DTYPES}
    assert_same(Tensors([save({name: t.clone() for name, t in theirs.items()}, tmp_path / "a.pt", zipped)]), theirs)


@CONTAINERS
def test_views_that_share_a_storage(tmp_path: Path, zipped: bool) -> None:
    import torch

    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    tied = torch.nn.Parameter(base[1:3].clone())
    theirs = {
        "whole": base,
        "transposed": base.t(),
        "columns": base[1:4, 2::3],
        "row": base[3],
        "one": base[2, 2],
        "none": base[:0],
        "none of three axes": torch.zeros(3, 0, 2).transpose(0, 2),
        "expanded": base[:, :1].expand(5, 7),
        "unfolded": base[0].unfold(0, 4, 1),
        "in": tied,
        "out": tied,
    }
    assert_same(Tensors([save(theirs, tmp_path / "a.pth", zipped)]), theirs)


@CONTAINERS
def test_a_module_with_its_metadata(tmp_path: Path, zipped: bool) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2))
    module.to(memory_format=torch.channels_last)
    theirs = module.state_dict()
    assert hasattr(theirs, "_metadata")
    assert_same(Tensors([save(theirs, tmp_path / "a.pt", zipped)]), theirs)
    alike = torch.nn.DataParallel(module).state_dict()
    assert all(name.startswith("module.") for name in alike)
    assert_same(Tensors([save(alike, tmp_path / "b.pt", zipped)]), theirs)


@CONTAINERS
@pytest.mark.parametrize("place", [("state_dict",), ("model",), ("ckpt", "net", "weights")])
def test_a_state_dict_among_other_values(tmp_path: Path, zipped: bool, place: tuple[str, ...]) -> None:
    import torch

    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    content: Any = OrderedDict((f"module.{name}", t) for name, t in module.state_dict().items())
    for key in reversed(place):
        content = {key: content, "epoch": 3, "args": {"lr": 0.1, "betas": (0.9, 0.99), "name": "Zoë", "none": None}}
    content |= {"optimizer": optimizer.state_dict(), "best": torch.tensor(0.5), "shape": torch.Size([2, 3])}
    content |= {"device": torch.device("cpu"), "dtype": torch.float16, "large": 1 << 70, "list": [True, -1, b"bytes"]}
    path = save(content, tmp_path / "a.pt", zipped, pickle_protocol=4)
    assert_same(Tensors([path]), module.state_dict())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {"a": 1}, "ema": {"a": 1}}, r"holds 2 dicts of tensors.*: 'model' \(1\), 'ema' \(1\); save the one"),
        ({"a": 1, "more": {"b": 1}}, r"holds 2 dicts of tensors.*: its own \(1\), 'more' \(1\)"),
        ({"1": {"a": 1}, 1: {"a": 1}}, r"holds 2 dicts of tensors.*: '1' \(1\), '1' \(1\)"),
        ({"epoch": "3", "list": [1]}, "holds no dict of tensors by name, but a dict: save a state_dict"),
        ([1, 1], "holds no dict of tensors by name, but a list"),
        (1, "holds no dict of tensors by name, but a tensor"),
        ({}, "holds no dict of tensors by name, but a dict"),
    ],
)
def test_several_state_dicts_or_none(tmp_path: Path, content: Any, says: str) -> None:
    import torch

    def put(value: Any) -> Any:
        """A tensor in the place of each 1."""
        if isinstance(value, dict):
            return {k: put(v) for k, v in value.items()}
        return [put(v) for v in value] if isinstance(value, list) else torch.ones(2) if value == 1 else value

    assert re.search(says, refused(save(put(content), tmp_path / "a.pt")))


def test_one_dict_in_two_places_is_one(tmp_path: Path) -> None:
    import torch

    theirs = {"a": torch.ones(2)}
    assert_same(Tensors([save({"model": theirs, "best": theirs}, tmp_path / "a.pt")]), theirs)


def test_a_whole_module_is_refused_by_its_classes_name(tmp_path: Path) -> None:
    import torch

    said = refused(save(torch.nn.Linear(2, 2), tmp_path / "a.pt"))
    assert "names 'torch.nn.modules.linear.Linear', which weights do not need" in said and "state_dict()" in said


@pytest.mark.parametrize("dtype", ["complex64", "float8_e4m3fn"])
def test_dtypes_that_are_not_computed_with(tmp_path: Path, dtype: str) -> None:
    import torch

    said = refused(save({"a": torch.zeros(2, dtype=getattr(torch, dtype))}, tmp_path / "a.pt"))
    assert ("names 'torch.ComplexFloatStorage'" if dtype == "complex64" else f"names 'torch.{dtype}'") in said


def test_a_view_that_is_negated_when_it_is_read(tmp_path: Path) -> None:
    metadata = forge.write_zip(tmp_path / "a.pt", a_dict(a=tensor((4,), (1,), 0, b"", plain({"neg": True}))))
    assert "negated or conjugated" in refused(metadata)


def test_a_file_of_a_big_endian_machine(tmp_path: Path, rng: np.random.Generator) -> None:
    import torch

    theirs = {
        name: torch.from_numpy(rng.integers(0, 2, 24, np.uint8)).view(getattr(torch, name)).clone()
        for name in ("bfloat16", "float64", "int32", "uint8", "bool")
    }
    little = save(theirs, tmp_path / "little.pt")
    with zipfile.ZipFile(little) as old, zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        for i, name in enumerate(theirs):
            swapped = np.frombuffer(old.read(f"little/data/{i}"), np.uint8).reshape(-1, theirs[name].itemsize)[:, ::-1]
            new.writestr(f"big/data/{i}", swapped.tobytes())
        new.writestr("big/byteorder", b"big")
        new.writestr("big/data.pkl", old.read("little/data.pkl"))
    found = Tensors([tmp_path / "big.pt"])
    assert_same(found, theirs)
    assert_same(found, theirs)  # read once more: of the file, not of what was swapped


def test_parts_of_a_storage_in_old_files(tmp_path: Path) -> None:
    """Before torch 0.4 a storage could be a view of another: an offset and a size after the root's own."""
    import torch

    part = storage(4, "0", b"", plain(("1", 1, 3)))
    rebuild = called(named("torch._utils", "_rebuild_tensor"), part, plain(1), plain((2,)), plain((1,)))
    data = (4).to_bytes(8, "little") + np.arange(4, dtype=np.float32).tobytes()
    path = forge.write_legacy(tmp_path / "a.th", a_dict(a=rebuild), ("0",), data)
    assert Tensors([path])["a"].tolist() == torch.load(path, weights_only=True)["a"].tolist() == [2.0, 3.0]
    for place, says in (
        (("1", 2, 3), "a part that reaches beyond the storage '0'"),
        (("1", 1, 2), "a tensor that reaches beyond its storage '0'"),
        (("1", -1, 2), "a part of the storage '0' by something else"),
    ):
        of = storage(4, "0", b"", plain(place))
        assert says in refused(forge.write_legacy(tmp_path / "b.th", a_dict(a=tensor((2,), (1,), 1, of)), ("0",), data))


def test_texts_of_python_2(tmp_path: Path) -> None:
    old = named("collections", "OrderedDict") + b"(](](U\x01a" + tensor() + b"eetR"
    assert Tensors([forge.write_zip(tmp_path / "a.pt", old)])["a"].tolist() == [1.0] * 4


def test_the_forger_can_write_what_torch_reads(tmp_path: Path) -> None:
    import torch

    whole = tensor((4,), (1,), 0, storage(4, "0", b"", plain(None)))
    for path in (forge.write_zip(tmp_path / "a.pt"), forge.write_legacy(tmp_path / "b.pt", a_dict(a=whole))):
        assert torch.load(path, weights_only=True)["a"].tolist() == Tensors([path])["a"].tolist() == [1.0] * 4


# -- folders -------------------------------------------------------------------------------------------------------


def sharded(folder: Path, **where: str) -> Path:
    import torch

    names = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    for name, file in names.items():
        save({name: torch.full((2,), ord(name), dtype=torch.float32)}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names | where}))
    return folder


def test_shards_are_read_together(tmp_path: Path) -> None:
    assert {name: a.tolist() for name, a in read(sharded(tmp_path)).items()} == {"a": [97] * 2, "b": [98] * 2}


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"b": "../pytorch_model.bin"}, "names '../pytorch_model.bin', which does not lie in the folder itself"),
        ({"b": "/etc/passwd"}, "names '/etc/passwd', which does not lie in the folder itself"),
        ({"b": "pytorch_model-00003-of-00002.bin"}, "names pytorch_model-00003-of-00002.bin, which the folder lacks"),
        ({"b": ".."}, r"names \.\., which the folder lacks"),
        ({"c": "pytorch_model-00002-of-00002.bin"}, "disagree on 1 tensors: c"),
    ],
)
def test_an_index_that_its_shards_do_not_fit(tmp_path: Path, where: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(sharded(tmp_path, **where))


def test_links_are_followed_to_files_alone(tmp_path: Path) -> None:
    """In the hub's cache every file is a link into its blobs; a device or a pipe is no file."""
    (tmp_path / "blobs").mkdir()
    folder = sharded(tmp_path / "blobs")
    snapshot = tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert set(read(snapshot)) == {"a", "b"}
    shard = snapshot / "pytorch_model-00002-of-00002.bin"
    shard.unlink()
    os.mkfifo(tmp_path / "pipe")
    for target in (Path("/dev/zero"), tmp_path / "pipe", tmp_path, tmp_path / "gone"):
        shard.symlink_to(target)
        with pytest.raises(InputError, match="which the folder lacks"):
            read(snapshot)
        shard.unlink()
    shard.symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="is a link to /etc/passwd, out of the model's folder"):
        read(snapshot)


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / SINGLE).write_bytes(b"never read")
    save_file({"a": np.ones(3)}, tmp_path / "model.safetensors")
    assert read(tmp_path)["a"].tolist() == [1.0] * 3


def test_values_stay_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    import torch

    path = save({"a": torch.arange(4096.0), "b": torch.ones(3)}, tmp_path / "a.pt")
    found = Tensors([path])
    array = found["a"]
    with open(path, "r+b") as file:
        file.truncate(100)
    assert array.tolist() == list(range(4096))
    with pytest.raises(InputError, match="cut short while it was read"):
        found["a"]
    path.unlink()
    assert array.tolist() == list(range(4096))


def test_torch_is_not_imported(tmp_path: Path) -> None:
    import torch

    path = save({"a": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "a.pt")
    code = (
        "import sys; from pathlib import Path; from tl_jax.pretrained.torch_files import Tensors\n"
        "print(Tensors([Path(sys.argv[1])])['a'].tolist(), {'torch', 'jax'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[1.0, 1.0, 1.0] set()\n"


# -- memory --------------------------------------------------------------------------------------------------------


@CONTAINERS
def test_no_more_is_held_than_the_model_and_two_tensors(tmp_path: Path, zipped: bool) -> None:
    """And less: beside the arrays there is one buffer, or what an expanded tensor repeats, however they lie."""
    import torch

    base = torch.arange(2 * MIB, dtype=torch.float32)
    theirs = {
        "plain": base.clone(),
        "transposed": base.clone().reshape(1024, 2048).t(),
        "permuted": base.clone().reshape(128, 16, 8, 128).permute(3, 1, 0, 2),
        "columns": base.clone().reshape(512, 4096)[:, 5:4000:7],
        "few of many": base.clone()[:: 1 << 16],
        "expanded": base.clone()[: MIB // 2].reshape(1, -1).expand(4, -1),
    }
    found = Tensors([save(theirs, tmp_path / "a.pt", zipped)])
    tracemalloc.start()
    held = {}
    for name in theirs:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        held[name] = found[name]
        kept, peak = (figure - before for figure in tracemalloc.get_traced_memory())
        assert kept < held[name].nbytes + 10_000, name
        assert peak < held[name].nbytes * (1.25 if name == "expanded" else 1) + strided._BUFFER + 10_000, name
    tracemalloc.stop()
    for name in theirs:
        assert held[name].tobytes() == bits(theirs[name]), name


@given(st.data())
def test_a_strided_view_is_read_through_a_buffer_of_any_size(tmp_path_factory: Any, data: st.DataObject) -> None:
    base = np.arange(200, dtype=np.int16)
    path = tmp_path_factory.mktemp("s") / "raw"
    path.write_bytes(b"xyz" + base.tobytes())
    shape = tuple(data.draw(st.lists(st.integers(1, 4), max_size=4)))
    strides = tuple(data.draw(st.integers(0, 15)) for _ in shape)
    expected = np.lib.stride_tricks.as_strided(base[5:], shape, [2 * s for s in strides])
    before, strided._BUFFER = strided._BUFFER, data.draw(st.sampled_from([1, 2, 16, 100]))
    try:
        with open(path, "rb") as file:
            found = strided.read(file, 3 + 10, shape, strides, base.dtype)
    finally:
        strided._BUFFER = before
    assert found.shape == shape and np.array_equal(found, expected)


# -- hostile files -------------------------------------------------------------------------------------------------


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
