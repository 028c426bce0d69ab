"""Arrays come back to the bit, whatever their names, dtypes and shapes; anything else is noticed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tl_jax.training import snapshot

EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int2")
BUILTIN = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float16", "float32", "float64", "complex64", "complex128")
NAMES = [
    "",
    "/",
    ".",
    "..",
    "a",
    "a/",
    "a//b",
    "a/b",
    "a.b",
    "a%2Fb",
    "a/c/0/0",
    "A",
    "ä/ß",
    "名/前",
    "tab\tnew\nline\0nul",
    "\ud800",
    "~!@#$^&*()'\"\\",
    "x" * 1000,
    "params/layers_0/attention/query/kernel",
    "zarr.json",
]


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def same(found: dict[str, np.ndarray], saved: dict[str, Any]) -> None:
    assert list(found) == list(saved)
    for name, array in saved.items():
        array = np.asarray(array)
        assert type(found[name]) is np.ndarray
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def bits(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Any bits: every NaN, denormal and signed zero may occur."""
    kind = np.dtype(dtype)
    if dtype in ("bool", "int4", "uint4", "int2"):  # one value a byte, of which not every pattern is a value
        return rng.integers(0, 2, shape).astype(kind)
    count = int(np.prod(shape))
    return np.frombuffer(rng.bytes(count * kind.itemsize), kind).reshape(shape)


@pytest.mark.parametrize("dtype", BUILTIN + FLOATS + EXTENDED)
def test_every_dtype_survives_to_the_bit(dtype: str, tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {str(shape): bits(dtype, shape, rng) for shape in [(), (1,), (3, 5), (0,), (2, 0, 3), (1, 1, 1, 2)]}
    arrays["zeros"] = np.zeros((4, 2), dtype)
    snapshot.write(tmp_path, 1, arrays, {})
    same(snapshot.read(tmp_path).arrays, arrays)


@settings(max_examples=20)
@given(
    arrays=st.dictionaries(
        st.text(st.characters(), max_size=20) | st.sampled_from(NAMES),
        hnp.arrays(
            st.sampled_from([np.dtype(name) for name in (*BUILTIN, *FLOATS, "bfloat16")]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
            elements=st.just(0) | st.just(1),
        )
        | hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)),
        max_size=5,
    ),
    step=st.integers(0, 2**63),
)
def test_any_names_and_arrays_survive(arrays: dict[str, np.ndarray], step: int) -> None:
    with folder() as path:
        snapshot.write(path, step, arrays, {"step": step})
        restored = snapshot.read(path)
    same(restored.arrays, arrays)
    assert restored.step == restored.meta["step"] == step


def test_weird_names_lie_side_by_side(tmp_path: Path) -> None:
    arrays = {name: np.full((2, 3), i, np.int32) for i, name in enumerate(NAMES)}
    snapshot.write(tmp_path, 1, arrays, {})
    same(snapshot.read(tmp_path).arrays, arrays)


def test_signed_zeros_and_nan_payloads_survive(tmp_path: Path) -> None:
    arrays = {
        "minus": np.full((3,), -0.0, np.float32),  # equal to the value that an array format may leave out
        "bf16": np.full((3,), -0.0, ml_dtypes.bfloat16),
        "nan": np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32),
    }
    snapshot.write(tmp_path, 1, arrays, {})
    same(snapshot.read(tmp_path).arrays, arrays)


def test_jax_arrays_views_and_foreign_byte_order(tmp_path: Path) -> None:
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    snapshot.write(
        tmp_path,
        1,
        {
            "device": jnp.arange(5, dtype=jnp.bfloat16),
            "scalar": jnp.int32(7),
            "key": jax.random.key_data(jax.random.key(3)),
            "transposed": grid.T,
            "strided": grid[::2, ::-3],
            "big": grid.astype(">f4"),
        },
        {},
    )
    found = snapshot.read(tmp_path).arrays
    assert found["device"].dtype == jnp.bfloat16 and found["device"].tolist() == [0, 1, 2, 3, 4]
    assert found["scalar"].shape == () and found["scalar"] == 7
    assert found["key"].dtype == np.uint32 and found["key"].tolist() == [0, 3]
    assert np.array_equal(found["transposed"], grid.T)
    assert np.array_equal(found["strided"], grid[::2, ::-3])
    assert np.array_equal(found["big"], grid) and found["big"].dtype.isnative


def test_meta_comes_back_exactly(tmp_path: Path) -> None:
    meta = {"best": -float("inf"), "x": 0.1 + 0.2, "n": 2**70, "words": ["ä", None, True], "deep": {"a": {"b": []}}}
    snapshot.write(tmp_path, 3, {}, meta)
    restored = snapshot.read(tmp_path)
    assert (restored.arrays, restored.meta, restored.step) == ({}, meta, 3)


@pytest.mark.parametrize(
    ("arrays", "meta", "complaint"),
    [
        ({"k": jax.random.key(0)}, {}, "'k' is a typed random key"),
        ({"o": np.array([object()])}, {}, "'o' has dtype object"),
        ({"s": np.array(["a"])}, {}, "'s' has dtype <U1"),
        ({"r": np.zeros(2, [("x", np.int8)])}, {}, "'r' has dtype"),
        ({"l": np.zeros(2, np.longdouble)}, {}, "'l' has dtype"),
        ({3: np.zeros(2)}, {}, "string, not 3"),
        ({}, {"a": {1: 0, "1": 0}}, "two keys of meta"),
        ({}, {"a": {1, 2}}, "not JSON serializable"),
    ],
)
def test_what_a_snapshot_cannot_hold_is_refused(arrays: Any, meta: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=complaint):
        snapshot.write(tmp_path, 1, arrays, meta)


def test_plain_orbax_reads_the_arrays(tmp_path: Path) -> None:
    from orbax.checkpoint import v1 as ocp

    snapshot.write(tmp_path, 1, {"layers_0/kernel": np.arange(4.0)}, {})
    (found,) = ocp.load(tmp_path / "arrays").values()
    assert found.tolist() == [0, 1, 2, 3]


def test_it_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    async def cell() -> dict[str, np.ndarray]:  # what a notebook's cell is
        snapshot.write(tmp_path, 1, {"a": np.arange(3)}, {})
        return snapshot.read(tmp_path).arrays

    assert asyncio.run(cell())["a"].tolist() == [0, 1, 2]


def test_orbax_is_silent_and_loggers_are_as_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        snapshot.write(tmp_path, 1, {"a": np.arange(3)}, {})
        snapshot.read(tmp_path)
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert not logging.getLogger("absl").disabled and not logging.getLogger("asyncio").disabled


def written(path: Path) -> Path:
    arrays = {f"layers_{i}/kernel": np.arange(i, i + 3000, dtype=np.float32) for i in range(3)}
    snapshot.write(path, 1, {**arrays, "step": np.int32(4)}, {"best": 0.5})
    return path


def damaged(path: Path) -> str:
    with pytest.raises(snapshot.Damaged) as found:
        snapshot.read(path)
    return str(found.value)


def test_an_altered_value_is_traced_to_its_leaf(tmp_path: Path) -> None:
    file = next(
        f for f in written(tmp_path).rglob("d/*") if np.arange(1, 3001, dtype=np.float32).tobytes() in f.read_bytes()
    )
    data = bytearray(file.read_bytes())
    data[data.index(np.arange(1, 3001, dtype=np.float32).tobytes()) + 77] ^= 1
    file.write_bytes(data)
    assert "other bytes than were saved; this costs the leaf 'layers_1/kernel'" in damaged(tmp_path)


def test_a_missing_and_a_short_file_are_named(tmp_path: Path) -> None:
    manifest = written(tmp_path) / "arrays" / "state" / "manifest.ocdbt"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-1])
    # It holds every leaf; which of them Orbax fails on first is its own affair.
    assert re.search(r"manifest\.ocdbt has .*; this costs the leaf '[^']+'", damaged(tmp_path))
    manifest.unlink()
    assert "manifest.ocdbt is missing" in damaged(tmp_path)
    manifest.write_bytes(whole)
    snapshot.read(tmp_path)


def test_every_byte_of_the_commit_counts(tmp_path: Path, rng: np.random.Generator) -> None:
    commit = written(tmp_path) / "commit.json"
    whole = commit.read_bytes()
    for at in {0, len(whole) - 1, *rng.integers(0, len(whole), 300).tolist()}:
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        commit.write_bytes(data)
        assert "commit.json is" in damaged(tmp_path), at
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        commit.write_bytes(whole[:size])
        assert "commit.json is truncated" in damaged(tmp_path)


def test_a_leaf_that_orbax_gives_back_otherwise_is_noticed(tmp_path: Path) -> None:
    """As if Orbax itself had erred: the files are as they were sealed, the leaf is not what the commit says."""
    written(tmp_path / "a")
    snapshot.write(tmp_path / "b", 1, {"layers_0/kernel": np.zeros(3000, np.float32)}, {})
    one, other = (json.loads((tmp_path / x / "commit.json").read_bytes()) for x in "ab")
    one["leaves"]["layers_0/kernel"] = other["leaves"]["layers_0/kernel"]
    del one["sha256"]
    one["sha256"] = hashlib.sha256(json.dumps(one, indent=1).encode()).hexdigest()
    (tmp_path / "a" / "commit.json").write_text(json.dumps(one, indent=1))
    assert damaged(tmp_path / "a") == "the leaf 'layers_0/kernel' has other bytes than were saved"


def test_another_format_is_named(tmp_path: Path) -> None:
    commit = written(tmp_path) / "commit.json"
    document = json.loads(commit.read_bytes()) | {"format": "tl_jax checkpoint 99"}
    del document["sha256"]
    document["sha256"] = hashlib.sha256(json.dumps(document, indent=1).encode()).hexdigest()
    commit.write_text(json.dumps(document, indent=1))
    assert "'tl_jax checkpoint 99'; this version reads" in damaged(tmp_path)
    assert snapshot.is_ours(tmp_path)


def test_foreign_folders_are_not_ours(tmp_path: Path) -> None:
    assert not snapshot.is_ours(tmp_path) and not snapshot.is_ours(tmp_path / "nothing")
    for text in ("", "[]", "{}", '{"format": "other"}', "[" * 100_000):
        (tmp_path / "commit.json").write_text(text)
        assert not snapshot.is_ours(tmp_path)
        assert "not ours" in damaged(tmp_path)
    written(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert snapshot.is_ours(tmp_path / "real") and not snapshot.is_ours(tmp_path / "link")


def test_an_unreadable_folder_is_damage_not_a_crash(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "commit.json").rename(tmp_path / "moved")
    (tmp_path / "commit.json").mkdir()
    assert "no commit.json" in damaged(tmp_path)
    shutil.rmtree(tmp_path / "commit.json")
    (tmp_path / "moved").rename(tmp_path / "commit.json")
    assert snapshot.read(tmp_path).meta == {"best": 0.5}


def test_trouble_is_found_in_causes_and_in_tensorstore_texts() -> None:
    assert snapshot.trouble(OSError(28, "x")) == "disk full"
    assert snapshot.trouble(ValueError("Failed to write: File too large [os_error_code='27']")) == "file too large"
    wrapped = RuntimeError("save failed")
    wrapped.__cause__ = OSError(13, "x")
    assert snapshot.trouble(wrapped) == "permission denied"
    assert snapshot.trouble(ValueError("shape mismatch")) is None
