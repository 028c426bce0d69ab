from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.parity import assert_same_bits
from tl_jax.errors import InputError
from tl_jax.models.bert import NAMES as BERT
from tl_jax.models.names import Entry, NameMap
from tl_jax.pretrained.conversion import to_canonical, to_foreign
from tl_jax.pretrained.safetensors_files import Tensors, write
from tl_jax.pretrained.tensor_files import same_bits
from tl_jax.rules import paths

NAMES = NameMap(
    (
        Entry("layer.{i}.dense.weight", "layers_{i}/dense/kernel", "transpose"),
        Entry("layer.{i}.norm.weight", "layers_{i}/norm/scale", "copy", older=("layer.{i}.norm.gamma",)),
        Entry("stem.weight", "stem/kernel", "conv"),
        Entry("classifier.weight", "head/kernel", "transpose"),
    ),
    prefixes=("net.",),
    ignored=(r"steps",),
)
EXPECTED = {"stem/kernel": (3, 5, 2, 4), "layers_0/dense/kernel": (4, 3), "layers_0/norm/scale": (3,)}


def given_file(folder: Path, **tensors: np.ndarray) -> Tensors:
    path = folder / "model.safetensors"
    write(path, tensors)
    return Tensors([path])


def fitting(prefix: str = "", **instead: np.ndarray | None) -> dict[str, np.ndarray]:
    """A file's tensors that fit `EXPECTED`, some replaced, added or (None) left out."""
    tensors = {
        "stem.weight": np.arange(120, dtype=np.float32).reshape(4, 2, 3, 5),
        "layer.0.dense.weight": np.arange(12, dtype=np.float16).reshape(3, 4),
        "layer.0.norm.weight": np.arange(3, dtype=np.float32),
    }
    changed = {**{prefix + name: a for name, a in tensors.items()}, **instead}
    return {name: a for name, a in changed.items() if a is not None}


def refused(folder: Path, expected: dict[str, tuple[int, ...]], tensors: dict[str, np.ndarray]) -> list[str]:
    with pytest.raises(InputError) as caught:
        to_canonical(given_file(folder, **tensors), NAMES, expected, "FOLDER")
    return str(caught.value).splitlines()


@pytest.mark.parametrize("prefix", ["", "net."])
def test_there_and_back(tmp_path: Path, prefix: str) -> None:
    tensors = fitting(prefix, steps=np.int64(7).reshape(()))
    read = to_canonical(given_file(tmp_path, **tensors), NAMES, EXPECTED, "FOLDER")
    assert read.names == {
        "stem/kernel": f"{prefix}stem.weight",
        "layers_0/dense/kernel": f"{prefix}layer.0.dense.weight",
        "layers_0/norm/scale": f"{prefix}layer.0.norm.weight",
    }
    assert list(read.params) == ["stem", "layers_0"]  # the order of the model, not of the file
    kernel = read.params["layers_0"]["dense"]["kernel"]
    assert (kernel.shape, kernel.dtype) == ((4, 3), np.float16)
    assert np.asarray(kernel)[2, 1] == tensors[f"{prefix}layer.0.dense.weight"][1, 2]
    assert np.asarray(read.params["stem"]["kernel"])[1, 4, 0, 3] == tensors[f"{prefix}stem.weight"][3, 0, 1, 4]
    assert_same_bits(to_foreign(read.params, NAMES, read.names) | read.carried, tensors)
    assert_same_bits(to_foreign(read.params, NAMES, {}, "net."), fitting("net."))


@given(hnp.array_shapes(min_dims=2, max_dims=5, max_side=4), st.sampled_from(["conv", "transpose"]))
def test_layouts_are_two_way(tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], transform: str) -> None:
    if transform == "transpose":
        shape = shape[:2]
    names = NameMap((Entry("w", "a/kernel", transform),))  # type: ignore[arg-type]
    foreign = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    ours = (*shape[2:], shape[1], shape[0])
    folder = tmp_path_factory.mktemp("layout")
    read = to_canonical(given_file(folder, w=foreign), names, {"a/kernel": ours}, "FOLDER")
    assert read.params["a"]["kernel"].shape == ours
    assert_same_bits(to_foreign(read.params, names, {}), {"w": foreign})


def test_nothing_is_read_before_it_is_asked_for_and_then_in_the_dtype_that_was(tmp_path: Path) -> None:
    asked = []

    class Watched(Tensors):
        def __getitem__(self, name: str) -> np.ndarray:
            asked.append(name)
            return super().__getitem__(name)

    given_file(tmp_path, **fitting(steps=np.int64(7).reshape(())))
    file = Watched([tmp_path / "model.safetensors"])
    read = to_canonical(file, NAMES, EXPECTED, "FOLDER", np.dtype(np.float64))
    back = to_foreign(read.params, NAMES, read.names)
    for path, shape in EXPECTED.items():
        assert (leaf := paths(read.params)[path]).shape == shape and leaf.dtype == np.float64
        assert (leaf.size, leaf.nbytes) == (np.prod(shape), np.prod(shape) * 8)
    assert not asked
    for path, leaf in paths(read.params).items():
        array = np.asarray(leaf)
        assert (array.dtype, array.shape) == (np.float64, EXPECTED[path])
    assert asked == [read.names[path] for path in EXPECTED]
    for name, tensor in back.items():
        assert (
            (np.asarray(tensor).shape, np.asarray(tensor).dtype)
            == (tensor.shape, tensor.dtype)
            == (
                fitting()[name].shape,
                np.float64,
            )
        )


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    tensors = fitting(
        "net.",
        **{
            "net.stem.weight": np.zeros((4, 2, 3, 6), np.float32),
            "net.layer.0.norm.weight": None,
            "net.layer.1.dense.weight": np.zeros((3, 4), np.float32),
            "optimizer.step": np.zeros((), np.float32),
        },
    )
    assert refused(tmp_path, EXPECTED, tensors) == [
        "FOLDER does not fit the model its config.json describes",
        "missing (1):",
        "  net.layer.0.norm.weight [3] -> layers_0/norm/scale",
        "extra (2):",
        "  net.layer.1.dense.weight [3, 4] -> layers_1/dense/kernel",
        "  optimizer.step []",
        "misshapen (1):",
        "  net.stem.weight [4, 2, 3, 6] -> stem/kernel: expected [4, 2, 3, 5]",
    ]


def test_a_parameter_under_two_spellings(tmp_path: Path) -> None:
    lines = refused(tmp_path, EXPECTED, fitting(**{"layer.0.norm.gamma": np.zeros(3, np.float32)}))
    assert lines[1] == "extra (1):"
    assert "layer.0.norm.gamma" in lines[2] and "layer.0.norm.weight" in lines[2]


def test_weights_that_are_no_floating_point_numbers(tmp_path: Path) -> None:
    lines = refused(tmp_path, EXPECTED, fitting(**{"layer.0.dense.weight": np.zeros((3, 4), np.int8)}))
    assert lines[1:] == [
        "misshapen (1):",
        "  layer.0.dense.weight int8 -> layers_0/dense/kernel: expected floating-point numbers",
    ]


def test_a_head_the_model_lacks_is_carried_but_one_it_has_must_fit(tmp_path: Path) -> None:
    tensors = fitting(**{"classifier.weight": np.ones((2, 3), np.float32)})
    read = to_canonical(given_file(tmp_path, **tensors), NAMES, EXPECTED, "FOLDER")
    assert_same_bits(read.carried, {"classifier.weight": np.ones((2, 3), np.float32)})
    lines = refused(tmp_path, EXPECTED | {"head/kernel": (3, 9)}, tensors)
    assert lines[1:] == ["misshapen (1):", "  classifier.weight [2, 3] -> head/kernel: expected [9, 3]"]


def test_names_behind_a_strange_prefix_get_a_hint(tmp_path: Path) -> None:
    lines = refused(tmp_path, EXPECTED, fitting("module."))
    assert lines[1] == "missing (3):" and lines[5] == "extra (3):"
    assert "3 of the extra names are those of this family behind the prefix 'module.'" in lines[-1]
    assert "none or 'net.'" in lines[-1]


def test_names_of_another_family_get_a_hint(tmp_path: Path) -> None:
    lines = refused(tmp_path, EXPECTED, {f"transformer.h.{i}.attn": np.zeros(3, np.float32) for i in range(3)})
    assert "another family: is model_type in config.json right?" in lines[-1]


def test_long_lists_are_cut(tmp_path: Path) -> None:
    lines = refused(tmp_path, {f"layers_{i}/norm/scale": (3,) for i in range(50)}, fitting())
    assert "missing (49):" in lines
    assert "  … and 9 more" in lines


@pytest.mark.parametrize("dtype", ["bool", "int64", "float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (9000,), (130, 70)])
def test_the_same_bits(tmp_path: Path, dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Wherever the one that differs is."""
    one = np.asarray(rng.normal(size=shape)).astype(jnp.dtype(dtype))
    pairs = {"same": one.copy(), "flat": one.reshape(-1, 1), "other": one.astype(np.int32)}
    for at in {0, one.size // 2, one.size - 1} if one.size else ():
        pairs[str(at)] = one.copy()
        pairs[str(at)].reshape(-1).view(np.uint8)[at * one.itemsize] ^= 1
    tensors = given_file(tmp_path, one=one, **pairs)
    assert [name for name in pairs if same_bits(tensors, "one", name)] == ["same"]


def test_bits_are_no_numbers(tmp_path: Path) -> None:
    values = np.array([0.0, np.nan, np.inf], np.float32)
    tensors = given_file(tmp_path, one=values, same=values, negative=np.array([-0.0, np.nan, np.inf], np.float32))
    assert same_bits(tensors, "one", "same") and not same_bits(tensors, "one", "negative")


def test_a_path_without_a_foreign_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no name in the foreign format: layers_0/lora/a"):
        to_foreign({"layers_0": {"lora": {"a": np.zeros(3)}}}, BERT, {})
