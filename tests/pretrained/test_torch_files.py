"""What torch saves is read bit for bit, from files and folders, in bounded memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pretrained import torch_forgery as forge
from tests.pretrained.torch_forgery import a_dict, called, named, plain, storage, tensor
from tests.pretrained.torch_saves import CONTAINERS, MIB, bits, refused, save
from tl_jax.errors import InputError
from tl_jax.pretrained import strided
from tl_jax.pretrained.torch_files import INDEX, SINGLE, Tensors
from tl_jax.pretrained.weights import read

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split()


def assert_same(found: Tensors, theirs: dict[str, Any]) -> None:
    assert set(found) == set(theirs)
    for name, torchs in theirs.items():
        array = found[name]
        assert found.specs[name].shape == array.shape == tuple(torchs.shape), name
        assert found.specs[name].dtype == array.dtype and f"torch.{array.dtype}" == str(torchs.dtype), name
        assert array.flags.c_contiguous and array.flags.owndata and array.flags.writeable, name
        assert array.tobytes() == bits(torchs), name


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
