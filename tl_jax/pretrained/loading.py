"""From a folder or hub repository to a model and its params."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from tl_jax.errors import InputError, did_you_mean
from tl_jax.model import Model, ModelInfo
from tl_jax.models.families import family
from tl_jax.models.layers import head_stage
from tl_jax.models.names import Entry, NameMap
from tl_jax.pretrained import safetensors_files
from tl_jax.pretrained.conversion import Converted, to_canonical
from tl_jax.pretrained.hub import resolve
from tl_jax.pretrained.json_files import read_json
from tl_jax.pretrained.pooling import Modules, choose, read_modules
from tl_jax.pretrained.sources import Source
from tl_jax.pretrained.tokenizer import TextProcessor
from tl_jax.rules import map_paths, paths

DTYPES = ("float32", "float16", "bfloat16", "float64")
# The head of a sentence-transformers folder: a dense layer in a file of its own.
DENSE_HEAD = NameMap((Entry("linear.weight", "head/kernel", "transpose"), Entry("linear.bias", "head/bias")))
IDENTITY = "torch.nn.modules.linear.Identity"


def load(
    name_or_folder: str | os.PathLike[str] | Source,
    *,
    pooling: str = "auto",
    dtype: str | None = None,
    revision: str | None = None,
) -> tuple[Model, dict[str, Any]]:
    """Load pretrained weights: the model, and its variables `{"params": nested dict of numpy arrays}`.

    `name_or_folder` is a folder in Hugging Face's format or a hub repository `org/name` (at `revision`). `pooling` says
    how a text becomes one vector: "cls", "mean", "last", "pooler", or "auto", as the checkpoint does. Parameters keep
    the file's dtype unless `dtype` asks for another. A classifier's head comes along where the checkpoint has one and
    the pooling in effect is the one it was trained on; its class names are `model.info.labels`.

    The arrays are in memory of their own, valid whatever becomes of the files. Raises `InputError` for all that cannot
    be read, with every missing, extra and misshapen tensor at once.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}{did_you_mean(dtype, DTYPES)}")
    source = resolve(name_or_folder, revision)
    folder = source.folder
    config = _read_config(folder)
    rooms = family(config["model_type"])
    tensors = safetensors_files.read(folder)
    in_file = [found[0] for name in tensors if (found := rooms.NAMES.to_canonical(name))]

    modules = _modules(folder, pooling)
    chosen = choose(pooling, modules, in_file)
    dense = _dense_head(folder, modules, config, required=pooling == "auto") if chosen == _pooling(modules) else None
    own_head = dense is None and chosen == "pooler" and _is_classifier(config)
    labels = _labels(config) if dense or own_head else None

    parsed = rooms.CONFIG(config)
    model = Model(rooms.stages(parsed, chosen))
    if labels is not None:
        model = model.attach(_head(len(labels), config))
    expected = {path: tuple(leaf.shape) for path, leaf in paths(model.shapes()).items()}
    in_dense = {path: expected.pop(path) for path in list(expected) if dense and path.startswith("head/")}
    read = to_canonical(tensors, rooms.NAMES, expected, str(folder))
    params = dict(read.params)
    if dense:
        where = folder / dense
        params |= to_canonical(safetensors_files.read(where), DENSE_HEAD, in_dense, str(where)).params
    if dtype is not None:
        params = map_paths(lambda _, leaf: leaf.astype(jnp.dtype(dtype)), params)
    return replace(model, info=_info(source, config, rooms, chosen, read, labels)), {"params": params}


def _info(
    source: Source, config: dict[str, Any], rooms: ModuleType, pooling: str, read: Converted, labels: Any
) -> ModelInfo:
    positions = config.get("max_position_embeddings")
    return ModelInfo(
        family=config["model_type"],
        config=config,
        source=source,
        processor=TextProcessor.read(source.folder, positions),
        pooling=pooling,
        names=read.names,
        carried=read.carried,
        labels=labels,
        alias=rooms.NAMES.alias,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError(safetensors_files.no_weights(str(folder), ["adapter_config.json"]))
        inside = sorted(p.parent.relative_to(folder).as_posix() for p in folder.glob("*/config.json"))
        hint = f"; did you mean {folder / inside[0]}?" if inside else ""
        raise InputError(f"{folder} is not a model: it holds no config.json{hint}")
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{path} names no model_type")
    return config


def _modules(folder: Path, pooling: str) -> Modules | None:
    """The folder's modules; a chain we do not know is no obstacle where the pooling was chosen by hand."""
    try:
        return read_modules(folder)
    except InputError:
        if pooling == "auto":
            raise
        return None


def _pooling(modules: Modules | None) -> str | None:
    return modules.pooling if modules else None


def _dense_head(folder: Path, modules: Modules | None, config: Mapping[str, Any], required: bool) -> str | None:
    """The subfolder of a classifier's head; raises `InputError` for a dense layer that is none, if `required`."""
    if modules is None or modules.dense is None:
        return None
    dense = read_json(folder / modules.dense / "config.json")
    if dense.get("activation_function") == IDENTITY and dense.get("out_features") == len(config.get("id2label") or ()):
        return modules.dense
    if required:
        raise InputError(
            f"the dense layer {folder / modules.dense} is no classifier with its labels in config.json's id2label; "
            "choose a pooling to leave it out: --pooling " + modules.pooling
        )
    return None


def _is_classifier(config: Mapping[str, Any]) -> bool:
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names in the order of the logits; transformers' default is LABEL_0, LABEL_1."""
    named = config.get("id2label")
    if not named:
        return tuple(f"LABEL_{i}" for i in range(config.get("num_labels") or 2))
    try:
        by_id = {int(i): str(label) for i, label in named.items()}
        return tuple(by_id[i] for i in range(len(by_id)))
    except (ValueError, KeyError, AttributeError):
        raise InputError(f"config.json: id2label must number the labels from 0, not {json.dumps(named)}") from None


def _head(labels: int, config: Mapping[str, Any]) -> Any:
    dropout = config.get("classifier_dropout")
    if dropout is None:
        dropout = config.get("hidden_dropout_prob", 0.0)
    return head_stage(labels, float(dropout), float(config.get("initializer_range", 0.02)))
