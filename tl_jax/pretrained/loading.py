"""From a folder or hub repository to a model and its params."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax.errors import InputError, did_you_mean
from tl_jax.inspection import not_finite
from tl_jax.model import Model, ModelInfo, Stage
from tl_jax.models import families
from tl_jax.models.families import FAMILIES, family, infer
from tl_jax.models.families import names as names_of
from tl_jax.models.heads import classifier
from tl_jax.models.names import Entry, NameMap
from tl_jax.pretrained import links, weights
from tl_jax.pretrained.conversion import to_canonical
from tl_jax.pretrained.hub import config_of, resolve
from tl_jax.pretrained.image_processor import ImageProcessor
from tl_jax.pretrained.json_files import read_json
from tl_jax.pretrained.own_files import MODEL_TYPE
from tl_jax.pretrained.pooling import Modules, choose, choose_for_images, read_modules
from tl_jax.pretrained.sources import Source, model_files
from tl_jax.pretrained.tensor_files import Tensors
from tl_jax.pretrained.tokenizer import TextProcessor
from tl_jax.rules import map_paths, paths

_log = logging.getLogger(__name__)
_SHOWN = 8
_MOST_LABELS = 1 << 20
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
    image_size: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[Model, dict[str, Any]]:
    """Load pretrained weights: the model, and its variables `{"params": nested dict of numpy arrays}`, with
    `batch_stats` where it has batch norms.

    `name_or_folder` is a folder in Hugging Face's format, a hub repository `org/name` (at `revision`), or one file of
    tensors; weights are safetensors, or else PyTorch's files. What a config.json would say beside a file is told from
    its tensors, for families whose tensors tell it (ResNets), with the keys of `config` put in. `pooling` says how a
    text or an image becomes one vector: "cls", "mean", "last", "pooler", or "auto", as the checkpoint does; for images
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
        config = _read_config(folder)
        _ = family(config["model_type"])  # told before anything is read
        tensors = weights.read(folder)
    else:
        tensors = weights.read_file(source.place)
        config = _config_of(tensors, config, source.place)
    architecture, names = family(config["model_type"]), names_of(config)
    there = [known[0] for name in tensors if (known := names.to_canonical(name))]
    images = families.reads_images(config["model_type"])
    if image_size is not None and not images:
        raise InputError(f"a {config['model_type']} reads texts, which have no image size")

    if images:
        chosen, dense = choose_for_images(pooling, architecture, config, there), None
        labels = _labels(config) if _image_head(config, architecture, chosen, there) else None
    else:
        modules = None if source.file else _modules(folder, pooling)
        chosen = choose(pooling, modules, there)
        labels, dense = _find_head(folder, config, modules, chosen, auto=pooling == "auto")
    model = _chain(architecture, config, chosen, labels)

    expected = {path: tuple(leaf.shape) for path, leaf in paths(model.shapes()).items()}
    in_dense = {path: expected.pop(path) for path in list(expected) if dense and path.startswith("head/")}
    kept = None if dtype is None else jnp.dtype(dtype)
    read = to_canonical(tensors, names, expected, str(source.place), kept)
    variables = read.variables
    if dense is not None:
        variables["params"] |= to_canonical(weights.read(dense), DENSE_HEAD, in_dense, str(dense), kept).params
    settings = architecture.CONFIG(config)
    if image_size is not None:
        if hasattr(architecture, "at_size"):
            variables["params"] = architecture.at_size(variables["params"], settings, image_size)
        config = {**config, "image_size": image_size}
        model = _chain(architecture, config, chosen, labels)
    rows = expected["embeddings/token/embedding"][0] if "embeddings/token/embedding" in expected else None
    if images:
        processor: Any = _image_processor(folder, settings, image_size)
    else:
        processor = None if source.file else TextProcessor.read(folder, settings.positions, rows)
    info = ModelInfo(
        family=config["model_type"],
        config=config,
        source=source,
        processor=processor,
        pooling=chosen,
        names=read.names,
        carried=read.carried,
        labels=labels,
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
    """Whether the model called `name`, a folder or a hub repository, starts from images; False if that is unknown."""
    try:
        path = config_of(name)
        return path is not None and families.reads_images(str(read_json(path).get("model_type")))
    except InputError:
        return False


def _chain(architecture: ModuleType, config: Mapping[str, Any], pooling: str, labels: tuple[str, ...] | None) -> Model:
    """The model of a config.json, with the head that its class has where there are `labels`."""
    settings = architecture.CONFIG(config)
    model = Model(architecture.stages(settings, pooling))
    if hasattr(architecture, "INPUTS"):
        example = {"image": jax.ShapeDtypeStruct((1, *settings.image_shape), jnp.float32)}
        model = replace(model, inputs=architecture.INPUTS, info=ModelInfo(example=example))
    if labels is None:
        return model
    heads: Mapping[str, Callable[[int, Mapping[str, Any]], Stage]] = getattr(architecture, "HEADS", {})
    named = str(next(iter(config.get("architectures") or ()), ""))
    head = next((made for kind, made in heads.items() if named.endswith(kind)), classifier)
    return model.attach(head(len(labels), config))


def _image_processor(folder: Path, settings: Any, size: int | None) -> ImageProcessor | None:
    found = ImageProcessor.read(folder, settings.image_shape[-1])
    return found if found is None or size is None else found.at_size(size)


def _image_head(config: Mapping[str, Any], architecture: ModuleType, pooling: str, paths: Collection[str]) -> bool:
    """Whether a checkpoint of images has a head, and that is over this pooling.

    The class says so; where there is none to say, what the file holds, whose canonical paths are `paths`.
    """
    kind, over = architecture.CLASSIFIER
    kinds = (kind, *getattr(architecture, "HEADS", ()))
    named = [str(name) for name in config.get("architectures") or ()]
    has_head = any(name.endswith(kinds) for name in named) if named else "head/kernel" in paths
    return pooling == over and has_head


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
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


def _modules(folder: Path, pooling: str) -> Modules | None:
    """The folder's modules; a chain we do not know is no obstacle where the pooling was chosen by hand."""
    try:
        return read_modules(folder)
    except InputError:
        if pooling == "auto":
            raise
        return None


def _find_head(
    folder: Path, config: Mapping[str, Any], modules: Modules | None, pooling: str, auto: bool
) -> tuple[tuple[str, ...] | None, Path | None]:
    """The labels of the head trained on this pooling (None: there is none), and its folder if not the model's.

    Raises `InputError` for a dense layer that is no head where the checkpoint is followed (`auto`): without it the
    vectors would not be the checkpoint's.
    """
    if modules is None:
        return (_labels(config) if pooling == "pooler" and _is_classifier(config) else None), None
    if modules.dense is None or modules.pooling != pooling:
        return None, None
    layer = read_json(folder / modules.dense / "config.json")
    named = config.get("id2label")
    labelled = isinstance(named, dict) and layer.get("out_features") == len(named)
    if layer.get("activation_function") == IDENTITY and labelled:
        return _labels(config), folder / modules.dense
    if auto:
        raise InputError(
            f"the dense layer {folder / modules.dense} is no classifier with its labels in config.json's id2label; "
            f"choose a pooling to leave it out: --pooling {modules.pooling}"
        )
    return None, None


def _is_classifier(config: Mapping[str, Any]) -> bool:
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names in the order of the logits; transformers' default is LABEL_0, LABEL_1."""
    named = config.get("id2label")
    if not named:
        count = config.get("num_labels") or 2
        if type(count) is not int or not 0 < count <= _MOST_LABELS:
            raise InputError(f"config.json: num_labels must be a number from 1 to {_MOST_LABELS:,}, not {count!r:.99}")
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        by_id = {int(i): str(label) for i, label in named.items()}
        return tuple(by_id[i] for i in range(len(by_id)))
    except (ValueError, KeyError, AttributeError):
        said = json.dumps(named)
        raise InputError(f"config.json: id2label must number the labels from 0, not {said:.99}") from None
