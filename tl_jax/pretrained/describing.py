"""What a config.json describes: the chain, how it pools, and the head that comes along."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from tl_jax.errors import InputError
from tl_jax.model import Model, ModelInfo
from tl_jax.models.families import family, reads_images
from tl_jax.models.heads import classifier
from tl_jax.models.names import Entry, NameMap
from tl_jax.pretrained.json_files import read_json
from tl_jax.pretrained.pooling import Modules, choose, choose_for_images, of_encoder, read_modules
from tl_jax.stage import Stage

_MOST_LABELS = 1 << 20
# The head of a sentence-transformers folder: a dense layer in a file of its own.
DENSE_HEAD = NameMap((Entry("linear.weight", "head/kernel", "transpose"), Entry("linear.bias", "head/bias")))
IDENTITY = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True)
class Described:
    """A model without weights, its pooling, its labels (None: no head), and the head's folder if not the model's."""

    model: Model
    pooling: str
    labels: tuple[str, ...] | None
    dense: Path | None


def describe(config: Mapping[str, Any], folder: Path | None, pooling: str, paths: Collection[str]) -> Described:
    """The model of a config.json, as `folder` (None: there is only a file) and the canonical `paths` in the file say.

    `pooling` is a choice as `load` has it. Raises `InputError` for one that the family does not have, or where the
    checkpoint does not say how it pools.
    """
    architecture = family(config["model_type"])
    if reads_images(config["model_type"]):
        chosen, dense = choose_for_images(pooling, architecture, config, paths), None
        labels = _labels(config) if _image_head(config, architecture, chosen, paths) else None
    else:
        modules = None if folder is None else _modules(folder, pooling)
        decoder = getattr(architecture, "default_pooling", None)  # encoders do not say
        chosen = choose(pooling, modules, paths, of_encoder if decoder is None else partial(decoder, config))
        if chosen == "none" and decoder is None:
            raise InputError(f"a {config['model_type']} is an encoder and no language model: it has a pooling")
        labels, dense = _find_head(folder, config, modules, chosen, auto=pooling == "auto")
    return Described(chain(config, chosen, labels), chosen, labels, dense)


def chain(config: Mapping[str, Any], pooling: str, labels: tuple[str, ...] | None) -> Model:
    """The model of a config.json, with the head that its class has where there are `labels`."""
    architecture = family(config["model_type"])
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


def _image_head(config: Mapping[str, Any], architecture: ModuleType, pooling: str, paths: Collection[str]) -> bool:
    """Whether a checkpoint of images has a head, and that is over this pooling.

    The class says so; where there is none to say, what the file holds, whose canonical paths are `paths`.
    """
    kind, over = architecture.CLASSIFIER
    kinds = (kind, *getattr(architecture, "HEADS", ()))
    named = [str(name) for name in config.get("architectures") or ()]
    has_head = any(name.endswith(kinds) for name in named) if named else "head/kernel" in paths
    return pooling == over and has_head


def _modules(folder: Path, pooling: str) -> Modules | None:
    """The folder's modules; a chain we do not know is no obstacle where the pooling was chosen by hand."""
    try:
        return read_modules(folder)
    except InputError:
        if pooling == "auto":
            raise
        return None


def _find_head(
    folder: Path | None, config: Mapping[str, Any], modules: Modules | None, pooling: str, auto: bool
) -> tuple[tuple[str, ...] | None, Path | None]:
    """The labels of the head trained on this pooling (None: there is none), and its folder if not the model's.

    Raises `InputError` for a dense layer that is no head where the checkpoint is followed (`auto`): without it the
    vectors would not be the checkpoint's.
    """
    if modules is None:
        return (_labels(config) if pooling == "pooler" and _is_classifier(config) else None), None
    if modules.dense is None or modules.pooling != pooling:
        return None, None
    assert folder is not None  # whose modules they are
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
