from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tl_jax
from tests.pretrained.conftest import Maker, assert_same_tensors, tensors_of
from tl_jax.errors import InputError
from tl_jax.pretrained import safetensors_header
from tl_jax.pretrained.safetensors_files import INDEX, Tensors, write, write_folder
from tl_jax.pretrained.weights import read

DTYPES = [
    np.dtype(d) for d in "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split()
] + [np.dtype(ml_dtypes.bfloat16)]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of any dtype, rank and layout: transposed, strided, reversed, broadcast, big-endian."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    bits = draw(hnp.arrays(np.uint8, (*shape, dtype.itemsize)))
    array = (bits % 2 if dtype.kind == "b" else bits).view(dtype)[..., 0]
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    for axis in range(array.ndim):
        step = draw(st.sampled_from([1, 2, -1, -2]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    if draw(st.booleans()):
        array = np.broadcast_to(array, (2, *array.shape))
    if dtype.isbuiltin and draw(st.booleans()):
        array = array.astype(dtype.newbyteorder(">"))
    return array


@given(st.dictionaries(st.text(min_size=1, max_size=5).filter(lambda s: s != "__metadata__"), arrays(), max_size=4))
def test_what_is_written_is_read_to_the_bit(tmp_path_factory: Any, tensors: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("w") / "model.safetensors"
    write(path, tensors)
    found = Tensors([path])
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        native = array.dtype.newbyteorder("=")
        assert found.specs[name].dtype == found[name].dtype == native
        assert found.specs[name].shape == found[name].shape == array.shape
        assert found[name].tobytes() == array.astype(native).tobytes()


def test_torch_reads_what_is_written(tmp_path: Path) -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_folder(tmp_path, {"a": kernel.T, "b": kernel.astype(ml_dtypes.bfloat16).T, "c": jnp.float32(2.5)})
    theirs = tensors_of(tmp_path)
    assert theirs["a"].tolist() == kernel.T.tolist()
    assert theirs["b"].float().tolist() == kernel.T.tolist() and str(theirs["b"].dtype) == "torch.bfloat16"
    assert theirs["c"].shape == () and theirs["c"].item() == 2.5


@given(st.dictionaries(st.text(max_size=5).filter(lambda s: s != "__metadata__"), arrays(), max_size=6))
def test_a_file_is_the_references_own_to_the_byte(tmp_path_factory: Any, tensors: dict[str, np.ndarray]) -> None:
    """The order of tensors, the spelling of names, the padding: so a folder that is written again keeps its hash."""
    from safetensors.numpy import save

    write(path := tmp_path_factory.mktemp("w") / "model.safetensors", tensors)
    plain = {name: np.array(a, a.dtype.newbyteorder("="), order="C") for name, a in tensors.items()}
    assert path.read_bytes() == save(plain, metadata={"format": "pt"})


def test_the_references_dtypes_are_in_its_order() -> None:
    from safetensors.numpy import save

    theirs = save({str(i): np.zeros(1, dtype) for i, dtype in enumerate(DTYPES)})
    found = json.loads(theirs[8 : 8 + int.from_bytes(theirs[:8], "little")])
    assert [entry["dtype"] for entry in found.values()] == list(safetensors_header.DTYPES)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a": np.zeros(2, np.complex64)}, "cannot hold numbers of the dtype complex64"),
        ({"__metadata__": np.zeros(2)}, "a tensor of the name '__metadata__'"),
        ({"a\ud800": np.zeros(2)}, r"a tensor of the name 'a\\ud800'"),
    ],
)
def test_what_a_file_cannot_hold(tmp_path: Path, tensors: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(InputError, match=says):
        write(tmp_path / "model.safetensors", tensors)
    assert not list(tmp_path.iterdir())


def test_there_is_one_writer_and_one_reader_which_maps_nothing() -> None:
    """The library writes what is not in C order scrambled, and maps what it reads."""
    code = {path: path.read_text("utf-8") for path in sorted(Path(tl_jax.__file__).parent.rglob("*.py"))}
    code = {path: text for path, text in code.items() if path.name != "reference_process.py"}  # torch's, and reads only
    assert not [path for path, text in code.items() if re.search(r"^\s*(from|import) safetensors\b", text, re.M)]
    assert [path.name for path, text in code.items() if "data_offsets" in text] == ["safetensors_header.py"]
    assert [path.name for path, text in code.items() if "safetensors_header" in text] == ["safetensors_files.py"]
    assert sum(text.count("safetensors_header.written") for text in code.values()) == 1
    assert not [path for path, text in code.items() if path.parent.name == "pretrained" and "mmap" in text]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what is mapped")
def test_a_file_that_is_read_is_not_mapped(tmp_path: Path) -> None:
    write(path := tmp_path / "model.safetensors", {"a": np.arange(4096.0)})
    found = Tensors([path])
    kept = found["a"]
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert kept.flags.owndata and kept.flags.writeable


def test_a_file_that_the_system_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"cannot read {tmp_path}: Is a directory"):
        Tensors([tmp_path])


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path: Path) -> None:
    write(path := tmp_path / "model.safetensors", {"a": np.arange(4096.0), "b": np.arange(4096.0)})
    found = Tensors([path])
    with open(path, "r+b") as file:
        file.truncate(40_000)
    assert found["a"].tolist() == list(range(4096))
    with pytest.raises(InputError, match=r"model\.safetensors was cut short while it was read"):
        found["b"]


def test_values_stay_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, {"a": np.arange(4096, dtype=np.float32)})
    array = Tensors([path])["a"]
    with open(path, "r+b") as file:  # overwritten in place, as cp does
        file.write(b"\xff" * path.stat().st_size)
    assert array.tolist() == list(range(4096))
    path.write_bytes(b"")
    assert array.tolist() == list(range(4096))
    path.unlink()
    assert array.tolist() == list(range(4096))


@pytest.mark.parametrize("limit", [3000, "5KB", 20_000])
def test_shards_are_those_of_transformers(tiny_bert: Maker, tmp_path: Path, limit: int | str) -> None:
    import transformers

    theirs = tiny_bert(num_hidden_layers=3, shard=limit)
    tensors = read(theirs)
    ours = tmp_path / "ours"
    ours.mkdir()
    order = transformers.BertModel.from_pretrained(theirs).state_dict()
    write_folder(ours, {name: tensors[name] for name in order}, limit)
    assert_same_tensors(ours, theirs)
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.glob("model*"))
    index, expected = (json.loads((f / INDEX).read_text()) for f in (ours, theirs))
    assert index["weight_map"] == expected["weight_map"]
    assert index["metadata"] == expected["metadata"]


def test_weights_below_the_limit_are_one_file(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": np.zeros(3), "b": np.zeros(3)}, 48)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("size", ["five", "-5GB", "5XB", 0, "5 G B"])
def test_a_shard_size_that_is_none(tmp_path: Path, size: Any) -> None:
    with pytest.raises(InputError, match="max_shard_size"):
        write_folder(tmp_path, {"a": np.zeros(3)}, size)


@given(st.data())
def test_truncated_at_any_place(tmp_path_factory: Any, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("t") / "model.safetensors"
    write(path, {"a": np.arange(30.0), "b": np.ones((2, 3), np.float16)})
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(InputError, match=r"model\.safetensors is (truncated or damaged|not a safetensors file)"):
        read(path.parent)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_folder(tmp_path, {name: np.full(4, i, np.float32) for i, name in enumerate("abc")}, 16)
    assert len(list(tmp_path.glob("model-*"))) == 3
    return tmp_path


def test_shards_are_read_together(sharded: Path) -> None:
    assert {name: a.tolist() for name, a in read(sharded).items()} == {"a": [0] * 4, "b": [1] * 4, "c": [2] * 4}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["flax_model.msgpack", "config.json"], r"flax_model\.msgpack but no model\.safetensors or pytorch_model\.bin"),
        (["tf_model.h5"], "only safetensors and PyTorch's files are read.*save_pretrained"),
        (["pytorch_model-00001-of-00002.bin"], r"no model\.safetensors or pytorch_model\.bin \(only pytorch_model-0"),
        (["adapter_config.json", "adapter_model.safetensors"], "a PEFT adapter, not a model"),
        (["config.json", "notes.txt"], r"no model\.safetensors or .* \(only config\.json, notes\.txt\)"),
        ([], "nothing at all"),
    ],
)
def test_folders_without_weights(tmp_path: Path, files: list[str], says: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=says):
        read(tmp_path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, {"a": np.zeros(3)})
    before = path.read_bytes()
    program = (
        "import resource, sys, numpy as np; from pathlib import Path\n"
        "from tl_jax.pretrained.safetensors_files import write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "try: write(Path(sys.argv[1]), {'a': np.zeros(10**5)})\n"
        "except OSError as e: print('refused:', e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert done.stdout.startswith(f"refused: could not write {path}"), done.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096  # in the other process alone
