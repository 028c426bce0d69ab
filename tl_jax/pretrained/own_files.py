"""Somebody's own network in files: tensors whose names are the paths of its leaves.

A folder of ours holds model.safetensors and a config.json, which says what it is and keeps the labels. Names are paths
as rules see them: `encoder/dense/kernel`, outside of the params the collection leads: `batch_stats/norm/mean`. Read are
also files of others, whose names may be joined by dots and begin with `params`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tl_jax.errors import InputError, nearest
from tl_jax.model import Model
from tl_jax.pretrained import weights
from tl_jax.pretrained.json_files import read_json
from tl_jax.rules import map_paths, paths
from tl_jax.stage import State, check_variables

MODEL_TYPE = "own"  # in the config.json of such a folder
_SHOWN = 8


def load_into(model: Model, place: str | os.PathLike[str], inputs: State | None = None) -> tuple[Model, dict[str, Any]]:
    """The model and its variables from a folder or a file, safetensors or PyTorch's; parameters keep its
    dtype.

    `inputs` (shapes and dtypes only) are needed where the model does not start from tokens. Labels that the folder's
    config.json keeps become the model's. Raises `InputError` with every missing, extra and misshapen tensor at once.
    """
    path = Path(place).expanduser()
    tensors = weights.read(path) if path.is_dir() else weights.read_file(_file(path))
    shapes = model.shapes(inputs)
    expected = paths(shapes)
    known = {_plain(name): name for name in expected}
    found: dict[str, str] = {}
    faults = []
    for name, spec in tensors.specs.items():
        ours = known.get(_plain(name))
        if ours is None or ours in found:
            close = nearest(name, expected, n=1)
            faults.append(f"extra: {name} {list(spec.shape)}" + (f"; nearest: {close[0]}" if close else ""))
            continue
        found[ours] = name
        if spec.shape != tuple(expected[ours].shape) or not _alike(spec.dtype, expected[ours].dtype):
            wanted = f"{expected[ours].dtype} {list(expected[ours].shape)}"
            faults.append(f"misshapen: {name} is {spec.dtype} {list(spec.shape)}, expected {wanted}")
    faults += [f"missing: {name} {list(leaf.shape)}" for name, leaf in expected.items() if name not in found]
    if faults:
        more = f"\n  … and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise InputError(f"{path} does not fit the model:\n  " + "\n  ".join(sorted(faults)[:_SHOWN]) + more)
    variables: dict[str, Any] = map_paths(lambda name, _: tensors[found[name]], shapes)
    labels = read_json(path / "config.json").get("id2label") if path.is_dir() else None
    if labels:
        in_order = tuple(str(labels[i]) for i in sorted(labels, key=int))
        model = replace(model, info=replace(model.info, labels=in_order))
    return model, variables


def tensors_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """`{path: array}` of all collections, as a file holds them."""
    check_variables(variables)
    tensors: dict[str, Any] = {}
    for collection, tree in variables.items():
        for path, leaf in paths({collection: tree}).items():
            if path in tensors:
                raise InputError(f"two leaves have the path {path!r}, one of the params and one of {collection}")
            tensors[path] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return tensors


def _file(path: Path) -> Path:
    if not path.is_file():
        beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(str(path), beside, n=1)
        raise InputError(f"there is no {path}" + (f"; did you mean {close[0]}?" if close else ""))
    if path.suffix == ".msgpack":
        raise InputError(
            f"{path} is msgpack, and only safetensors and PyTorch's files are read: "
            "flax.serialization.msgpack_restore gives its tree, which is what the variables are"
        )
    return path


def _plain(name: str) -> str:
    return name.replace(".", "/").removeprefix("params/")


def _alike(a: Any, b: Any) -> bool:
    return a == b or (jnp.issubdtype(a, jnp.floating) and jnp.issubdtype(b, jnp.floating))
