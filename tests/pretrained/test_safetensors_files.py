from __future__ import annotations

import json
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

from tests.pretrained.conftest import Maker, assert_same_tensors, tensors_of
from tl_jax.errors import InputError
from tl_jax.pretrained.safetensors_files import INDEX, Tensors, write, write_folder
from tl_jax.pretrained.weights import read

DTYPES = [
    np.dtype(d) for d in "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split()
] + [np.dtype(ml_dtypes.bfloat16)]


def header(content: str, data: bytes = b"") -> bytes:
    return len(content).to_bytes(8, "little") + content.encode() + data


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


def test_the_metadata_old_readers_check_is_there(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_folder(tmp_path, {"a": np.zeros(2)})
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "is not a safetensors file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:53aa\nsize 90868376\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (header('{"a": nonsense}'), "is not a safetensors file"),
        (header('{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}', b"0000"), "is not a safetensors file"),
        (header('{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}', b"0000"), "'a'.*F8_E4M3.*dequantise"),
        (header('{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}', b"00000000"), "'a'.*C64.*not supported"),
        (
            header("{" + ",".join(2 * ['"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}']) + "}", b"0000"),
            "'a'.*twice",
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=says):
        read(tmp_path)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_folder(tmp_path, {name: np.full(4, i, np.float32) for i, name in enumerate("abc")}, 16)
    assert len(list(tmp_path.glob("model-*"))) == 3
    return tmp_path


def _edit_index(folder: Path, **where: str | None) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {k: v for k, v in (index["weight_map"] | where).items() if v is not None}
    (folder / INDEX).write_text(json.dumps(index))


def test_shards_are_read_together(sharded: Path) -> None:
    assert {name: a.tolist() for name, a in read(sharded).items()} == {"a": [0] * 4, "b": [1] * 4, "c": [2] * 4}


def test_an_index_that_names_a_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"index\.json names model-00002-of-00003\.safetensors, which the folder lacks"
    ):
        read(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/tmp/model.safetensors", "a/../../b"])
def test_an_index_that_names_a_shard_elsewhere(sharded: Path, shard: str) -> None:
    _edit_index(sharded, c=shard)
    with pytest.raises(InputError, match=f"index.json names '{shard}', which does not lie in the folder itself"):
        read(sharded)


def test_an_index_that_disagrees_with_its_shards(sharded: Path) -> None:
    _edit_index(sharded, d="model-00001-of-00003.safetensors", a=None)
    with pytest.raises(InputError, match="disagree on 2 tensors: a, d"):
        read(sharded)


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    write(sharded / "model-00003-of-00003.safetensors", {"c": np.zeros(4), "a": np.zeros(4)})
    with pytest.raises(InputError, match="'a' is listed twice"):
        read(sharded)


def test_a_tensor_twice_in_the_index(sharded: Path) -> None:
    text = (sharded / INDEX).read_text()
    (sharded / INDEX).write_text(text.replace('"a":', '"b": "model-00001-of-00003.safetensors", "a":'))
    with pytest.raises(InputError, match="'b' is listed twice"):
        read(sharded)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(InputError, match=r"index\.json is not an index of shards"):
        read(sharded)


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
