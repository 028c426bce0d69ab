"""Somebody's own network in files: bits and paths survive, names of others are read, what does not fit is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import tl_jax as tl
from tests import chains
from tests.chains import Shift, fault
from tests.tiny import digests
from tl_jax.model import Model
from tl_jax.pretrained.safetensors_files import Tensors
from tl_jax.rules import map_paths, paths


def net() -> Model:
    """A convolution and a batch norm: params and statistics."""
    return Model.from_linen(chains.Convolution(), writes="hidden")


@pytest.fixture
def inputs(rng: np.random.Generator) -> dict[str, Any]:
    return chains.image(rng)


@pytest.fixture
def variables(rng: np.random.Generator, inputs: dict[str, Any]) -> dict[str, Any]:
    drawn = map_paths(lambda _, leaf: rng.normal(size=leaf.shape).astype(np.float32), net().shapes(inputs))
    drawn["params"]["conv"]["kernel"] = np.asfortranarray(drawn["params"]["conv"]["kernel"])  # any memory layout
    drawn["params"]["conv"]["bias"] = drawn["params"]["conv"]["bias"].astype(ml_dtypes.bfloat16)
    return drawn


def test_a_folder_holds_the_paths_and_gives_the_bits_back(tmp_path: Path, variables: Any, inputs: Any) -> None:
    folder = tl.save(tmp_path / "net", net(), variables, labels=("b", "a"))
    names = {"conv/kernel", "conv/bias", "norm/scale", "norm/bias", "batch_stats/norm/mean", "batch_stats/norm/var"}
    assert Tensors([folder / "model.safetensors"]).keys() == names
    model, read = tl.load(folder, model=net(), inputs=inputs)
    assert model == net() and model.info.labels == ("b", "a")
    assert digests(read) == digests(variables)
    tl.save(folder, model, read, overwrite=True)
    assert digests(tl.load(folder, model=net(), inputs=inputs)[1]) == digests(variables)
    assert "holds the weights of somebody's own network" in fault(tl.load, folder)


@pytest.mark.parametrize(("front", "between"), [("", "/"), ("", "."), ("params/", "/"), ("params.", ".")])
def test_a_file_of_others(front: str, between: str, tmp_path: Path, variables: Any, inputs: Any) -> None:
    leaves = {
        (path if path.startswith("batch_stats") else front + path).replace("/", between): np.ascontiguousarray(leaf)
        for path, leaf in paths(variables).items()
    }
    save_file(leaves, tmp_path / "theirs.safetensors")
    assert digests(tl.load(tmp_path / "theirs.safetensors", model=net(), inputs=inputs)[1]) == digests(variables)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "th"])
def test_a_file_of_torchs(tmp_path: Path, variables: Any, inputs: Any, suffix: str) -> None:
    import torch
    from safetensors.torch import load_file

    tl.save(tmp_path / "net", net(), variables)
    leaves = load_file(tmp_path / "net" / "model.safetensors")
    file = tmp_path / f"theirs.{suffix}"
    torch.save({"state_dict": {path.replace("/", "."): leaf for path, leaf in leaves.items()}, "epoch": 3}, file)
    assert digests(tl.load(file, model=net(), inputs=inputs)[1]) == digests(variables)


def test_all_that_does_not_fit_is_said_at_once(tmp_path: Path, variables: Any, inputs: Any) -> None:
    leaves = {path: np.ascontiguousarray(leaf) for path, leaf in paths(variables).items()}
    leaves["conv/kernels"] = leaves.pop("conv/kernel")
    leaves["norm/scale"] = np.zeros((5,), np.float32)
    leaves["norm/bias"] = np.zeros((4,), np.int32)
    file = tmp_path / "theirs.safetensors"
    save_file(leaves, file)
    assert fault(tl.load, file, model=net(), inputs=inputs) == (
        f"{file} does not fit the model:\n"
        "  extra: conv/kernels [3, 3, 2, 4]; nearest: conv/kernel\n"
        "  misshapen: norm/bias is int32 [4], expected float32 [4]\n"
        "  misshapen: norm/scale is float32 [5], expected float32 [4]\n"
        "  missing: conv/kernel [3, 3, 2, 4]"
    )
    assert "give example inputs: shapes of image cannot be guessed" in fault(tl.load, file, model=net())
    assert f"there is no {tmp_path / 'their.safetensors'}; did you mean {file}?" in fault(
        tl.load, tmp_path / "their.safetensors", model=net(), inputs=inputs
    )
    (tmp_path / "theirs.msgpack").write_bytes(b"")
    assert "flax.serialization.msgpack_restore" in fault(
        tl.load, tmp_path / "theirs.msgpack", model=net(), inputs=inputs
    )
    assert "dtype belong to models that are not your own" in fault(tl.load, file, model=net(), dtype="float16")


def test_what_a_folder_cannot_hold(tmp_path: Path, variables: Any, inputs: Any) -> None:
    adapted = {**variables, "adapters": {"shift": {"conv": {"shift": np.ones(4, np.float32)}}}}
    assert "merge them first" in fault(tl.save, tmp_path / "net", replace(net(), hooks=(Shift(),)), adapted)
    assert "with params among them" in fault(tl.save, tmp_path / "net", net(), variables["params"])
    twice = {**variables, "params": {**variables["params"], "batch_stats": variables["batch_stats"]}}
    assert "two leaves have the path 'batch_stats/norm/mean'" in fault(tl.save, tmp_path / "net", net(), twice)
    assert not list(tmp_path.iterdir())


def test_a_head_that_a_task_attached_comes_along(tmp_path: Path, rng: np.random.Generator) -> None:
    params = {"table": rng.normal(size=(7, 4)).astype(np.float32)}
    bare = Model.from_function(
        lambda params, tokens: params["table"][tokens].mean(1), {"params": params}, writes="pooled"
    )
    model = tl.tasks.TextClassification(labels=("yes", "no")).attach(bare)
    plan = tl.methods.full()(model, {"params": params}, jax.random.key(0))
    folder = tl.save(tmp_path / "net", model, plan.variables)
    again, read = tl.load(folder, model=model)
    assert digests(read) == digests(plan.variables) and again.info.labels == ("yes", "no")
    assert "extra: head/bias [2]" in fault(tl.load, folder, model=bare)
