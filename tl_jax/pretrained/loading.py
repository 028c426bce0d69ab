"""From a folder or hub repository to a model and its params."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from tl_jax.errors import InputError, did_you_mean
from tl_jax.inspection import not_finite
from tl_jax.model import Model, ModelInfo
from tl_jax.models import families
from tl_jax.models.families import FAMILIES, family, infer
from tl_jax.models.families import names as names_of
from tl_jax.pretrained import describing, links, meta_files, weights
from tl_jax.pretrained.conversion import to_canonical
from tl_jax.pretrained.describing import DENSE_HEAD
from tl_jax.pretrained.hub import config_of, located, resolve
from tl_jax.pretrained.image_processor import ImageProcessor
from tl_jax.pretrained.json_files import read_json
from tl_jax.pretrained.own_files import MODEL_TYPE
from tl_jax.pretrained.sources import Source, model_files
from tl_jax.pretrained.tensor_files import Tensors
from tl_jax.pretrained.tokenizer import TextProcessor
from tl_jax.rules import map_paths, paths

_log = logging.getLogger(__name__)
_SHOWN = 8
DTYPES = ("float32", "float16", "bfloat16", "float64")


def load(
    name_or_folder: str | os.PathLike[str] | Source,
    *,
    pooling: str = "auto",
    dtype: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[Model, dict[str, Any]]:
    """Load pretrained weights: the model, and its variables `{"params": nested dict of numpy arrays}`, with
    `batch_stats` where it has batch norms.

    `name_or_folder` is a folder in Hugging Face's format, a hub repository `org/name` (at `revision`), or one file of
    tensors; weights are safetensors, or else PyTorch's files; a Llama may also be a folder as Meta or llama2.c write
    it. What a config.json would say beside a file is told from its tensors, for families whose tensors tell it
    (ResNets), with the keys of `config` put in. `pooling` says how a text or an image becomes one vector: "cls",
    "mean", "last", "pooler", or "auto", as the checkpoint does; for a language model with its head "none"; for images
    also "classifier", as the class with a head does that transformers has for them. `image_size` is the side of the
    square that images become, where it is not to be the checkpoint's. Parameters keep the file's dtype unless `dtype`
    asks for another. A classifier's head comes along where the checkpoint has one and the pooling in effect is the one
    it was trained on; its class names are `model.info.labels`.

    The arrays are in memory of their own, valid whatever becomes of the files, and beside them no more than two tensors
    are held at any time. Numbers that are NaN or infinite are warned of. Raises `InputError` for all that cannot be
    read, with every missing, extra and misshapen tensor at once.
    """
    model, variables = load_deferred(
        name_or_folder, pooling=pooling, dtype=dtype, revision=revision, image_size=image_size, config=config
    )
    variables = map_paths(lambda _, leaf: np.asarray(leaf), variables)
    carried = {name: np.asarray(tensor) for name, tensor in model.info.carried.items()}
    _warn_of_no_numbers(variables, model.info.source)
    return replace(model, info=replace(model.info, carried=carried)), variables


def load_deferred(
    name_or_folder: str | os.PathLike[str] | Source,
    *,
    pooling: str = "auto",
    dtype: str | None = None,
    revision: str | None = None,
    image_size: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[Model, dict[str, Any]]:
    """`load` without reading a tensor: every leaf is `Deferred`, and so is what the model carries over."""
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}{did_you_mean(dtype, DTYPES)}")
    source = resolve(name_or_folder, revision)
    folder = source.folder
    if source.file is None:
        if config is not None:
            raise InputError(f"{folder} has a config.json to say what it is: config= is for a file of tensors")
        links.check(folder, model_files(folder).values())
        config, tensors = meta_files.read(folder) or _read(folder)
    else:
        tensors = weights.read_file(source.place)
        config = _config_of(tensors, config, source.place)
    architecture, names = family(config["model_type"]), names_of(config)
    there = [known[0] for name in tensors if (known := names.to_canonical(name))]
    images = families.reads_images(config["model_type"])
    if image_size is not None and not images:
        raise InputError(f"a {config['model_type']} reads texts, which have no image size")

    described = describing.describe(config, None if source.file else folder, pooling, there)
    model, dense = described.model, described.dense
    expected = {path: tuple(leaf.shape) for path, leaf in paths(model.shapes()).items()}
    in_dense = {path: expected.pop(path) for path in list(expected) if dense and path.startswith("head/")}
    kept = None if dtype is None else jnp.dtype(dtype)
    read = to_canonical(tensors, names, expected, str(source.place), kept)
    variables = read.variables
    untied = [name for name, _ in names.ties if name in read.carried]
    if untied and described.pooling == "none" and "head" not in variables["params"]:
        raise InputError(
            f"config.json of {folder} ties the head to the token embeddings, but {untied[0]} in the file is another "
            'tensor: set "tie_word_embeddings" to false there'
        )
    if dense is not None:
        variables["params"] |= to_canonical(weights.read(dense), DENSE_HEAD, in_dense, str(dense), kept).params
    settings = architecture.CONFIG(config)
    if image_size is not None:
        if hasattr(architecture, "at_size"):
            variables["params"] = architecture.at_size(variables["params"], settings, image_size)
        config = {**config, "image_size": image_size}
        model = describing.chain(config, described.pooling, described.labels)
    rows = expected["embeddings/token/embedding"][0] if "embeddings/token/embedding" in expected else None
    if images:
        processor: Any = _image_processor(source, architecture, settings, image_size)
    else:
        processor = None if source.file else TextProcessor.read(folder, settings.positions, rows)
    info = ModelInfo(
        family=config["model_type"],
        config=config,
        source=source,
        processor=processor,
        pooling=described.pooling,
        names=read.names,
        carried=read.carried,
        copies=read.copies,
        labels=described.labels,
        alias=names.alias,
        example=model.info.example,
    )
    return replace(model, info=info), variables


def _config_of(tensors: Tensors, given: Mapping[str, Any] | None, place: Path) -> dict[str, Any]:
    """What a config.json beside a file of tensors would say: what they tell, and what is given."""
    told = infer({name: spec.shape for name, spec in tensors.specs.items()}) or {}
    config = {**told, **(given or {})}
    if not isinstance(config.get("model_type"), str):
        raise InputError(
            f"{place} holds tensors alone, and they do not tell what model they are of: give the folder they lie in, "
            f"with its config.json, or config={{'model_type': …}} with one of {', '.join(FAMILIES)}"
        )
    return config


def _warn_of_no_numbers(variables: Mapping[str, Any], source: Source) -> None:
    """Say which tensors hold numbers that are NaN or infinite, and how many."""
    counts = {path: not_finite(leaf) for path, leaf in paths(variables).items()}
    if bad := [f"{path} ({count:,})" for path, count in counts.items() if count]:
        shown = ", ".join(bad[:_SHOWN]) + (f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
        _log.warning("%s: numbers that are NaN or infinite are in %d tensors: %s", source, len(bad), shown)


def reads_images(name: str) -> bool:
    """Whether the model called `name`, a folder, a file or a hub repository, starts from images; False if unknown."""
    try:
        found = check_name(name)
        if found is None:
            path = config_of(name)
            found = None if path is None else str(read_json(path).get("model_type"))
        return found is not None and families.reads_images(found)
    except InputError:
        return False


def check_name(name: str) -> str | None:
    """The `model_type` of what `name` names here, told from its config or its tensors; None: it may be on the hub.

    Raises `InputError` where `load` would, before anything is read or fetched.
    """
    source = located(name)
    if source is None:
        return None
    if source.file is not None:
        model_type = _config_of(weights.read_file(source.place), None, source.place)["model_type"]
    else:
        links.check(source.folder, model_files(source.folder).values())
        metas = meta_files.describes(source.folder)
        model_type = meta_files.MODEL_TYPE if metas else _read_config(source.folder)["model_type"]
    _ = family(model_type)  # raises
    return str(model_type)


def _image_processor(
    source: Source, architecture: ModuleType, settings: Any, size: int | None
) -> ImageProcessor | None:
    """The one beside the weights; that which is usual for the family, where a file of colour images' lies alone."""
    channels = settings.image_shape[-1]
    found = ImageProcessor.read(source.folder, channels)
    if found is None and source.file is not None and channels == 3 and hasattr(architecture, "preprocessing"):
        found = ImageProcessor(architecture.preprocessing(settings), channels)
    return found if found is None or size is None else found.at_size(size)


def _read(folder: Path) -> tuple[dict[str, Any], Tensors]:
    config = _read_config(folder)
    _ = family(config["model_type"])  # told before anything is read
    return config, weights.read(folder)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "experiment.json").is_file():
            raise InputError(f"{folder} is a run and no model: tl-jax export {folder} FOLDER writes the model of it")
        if (folder / "adapter_config.json").is_file():
            raise InputError(weights.no_weights(str(folder), ["adapter_config.json"]))
        inside = sorted(p.parent.relative_to(folder).as_posix() for p in folder.glob("*/config.json"))
        hint = f"; did you mean {folder / inside[0]}?" if inside else ""
        raise InputError(f"{folder} is not a model: it holds no config.json{hint}")
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{path} names no model_type")
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{path}: architectures must be a list of names")
    if config["model_type"] == MODEL_TYPE:
        raise InputError(
            f"{folder} holds the weights of somebody's own network, and not the network: give it, "
            "tl.load(folder, model=tl.Model.from_linen(…))"
        )
    return config
