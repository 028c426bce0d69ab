"""From a model and its params to a folder that transformers, sentence-transformers and `load` read."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from tl_jax.disk import sync
from tl_jax.errors import InputError, did_you_mean
from tl_jax.model import Model, ModelInfo
from tl_jax.models.families import class_name, family, has_class, reads_images
from tl_jax.models.families import names as names_of
from tl_jax.models.names import NameMap
from tl_jax.pretrained import links
from tl_jax.pretrained.conversion import prefix, to_foreign
from tl_jax.pretrained.describing import DENSE_HEAD
from tl_jax.pretrained.image_processor import ImageProcessor
from tl_jax.pretrained.json_files import copy, write_json
from tl_jax.pretrained.own_files import MODEL_TYPE, tensors_of
from tl_jax.pretrained.placing import check_target, put_in_place
from tl_jax.pretrained.pooling import MODES
from tl_jax.pretrained.safetensors_files import write_folder
from tl_jax.pretrained.sentence_modules import copy_modules, write_modules
from tl_jax.pretrained.sources import BESIDE, Source
from tl_jax.pretrained.tokenizer import TextProcessor
from tl_jax.rules import paths
from tl_jax.trees import STATISTICS

FORMATS = ("hf", "sentence-transformers")
_COUNT = "num_batches_tracked"


def save(
    folder: str | os.PathLike[str],
    model: Model,
    variables: Mapping[str, Any],
    *,
    labels: Sequence[str] | None = None,
    format: str | None = None,
    max_shard_size: int | str | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a Hugging Face folder: config.json, safetensors, the processor's files; returns its path.

    An encoder is written as it was read: its class, its tensors' names, and those carried over; a language model as the
    class `…ForCausalLM`. A classifier over `pooler` pooling becomes the class `…ForSequenceClassification`, with
    `labels` (default: the model's) in its config; one of images over its family's own pooling the class
    `…ForImageClassification`. A classifier of texts over `cls`, `mean` or `last` pooling, which no class of
    transformers describes, becomes a sentence-transformers folder whose `2_Dense` is the head; `load` reads that head
    back with its labels. `format` insists on one of the two, "hf" or "sentence-transformers". What was read from a file
    alone is written as the class's own folder; the counts of batches that its norms lack are 0. A family of which
    transformers has no class keeps its names, for `load`. Parameters keep their dtypes. `max_shard_size` (bytes, or
    "5GB") splits the weights; `card` becomes README.md. Somebody's own network, of which transformers has no class, is
    written under its own paths, for `tl.load(folder, model=…)`.

    All or nothing: the folder appears when it is complete. Raises `InputError` for a folder that has something in it
    (`overwrite` replaces a model, and nothing but a model), and for what the format cannot hold: adapters that are not
    merged, a truncated chain, stages the class does not have, a head in the form that it does not fit. Raises `OSError`
    when the disk refuses.
    """
    target = Path(folder).expanduser().resolve()
    check_target(target, overwrite)
    contents = _contents(model, variables, labels)
    _check_format(format, model, contents)
    contents = replace(contents, modules=contents.dense is not None or format == "sentence-transformers")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    made.mkdir()
    try:
        if card is not None:
            (made / "README.md").write_text(card, encoding="utf-8")
        _write(contents, made, max_shard_size)
        put_in_place(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return target


@dataclass(frozen=True)
class _Contents:
    """What the folder will hold, settled before the first byte is written."""

    config: dict[str, Any]
    tensors: dict[str, Any]  # arrays, or what is read when it is written
    dense: dict[str, Any] | None  # the head, where it lies in a file of its own
    pooling: str
    processor: Any
    source: Any
    modules: bool = False  # whether it is to be a sentence-transformers folder, whatever it came as


def _contents(model: Model, variables: Mapping[str, Any], labels: Sequence[str] | None) -> _Contents:
    info = model.info
    _check_merged(model, variables)
    if not info.family:
        named = labels if labels is not None else info.labels
        known = {} if named is None else _label_config(labels, info.labels, len(named))
        return _Contents({"model_type": MODEL_TYPE, **known}, tensors_of(variables), None, "", info.processor, None)
    _check_writable(model, variables)
    architecture, names = family(info.family), names_of(info.config)
    kept = {collection: dict(tree) for collection, tree in variables.items() if collection != "adapters"}
    config = dict(info.config)
    of_file = isinstance(info.source, Source) and info.source.file is not None
    read_as = None if of_file else next(iter(config.get("architectures") or ()), None)
    dense = None
    if info.pooling == "none":
        if labels is not None:
            raise InputError("labels belong to a classifier, and this is a language model")
        written_as = class_name(info.family, "ForCausalLM")
    elif "head" not in kept["params"]:
        if labels is not None:
            raise InputError("labels belong to a classifier, and this model has no head")
        written_as = read_as or class_name(info.family, "Model")
    else:
        head = kept["params"]["head"]
        config |= _label_config(labels, info.labels, head["kernel"].shape[-1])
        config.pop("num_labels", None)  # transformers counts id2label
        if "problem_type" in config and (labels is not None or config["id2label"] != info.config.get("id2label")):
            config["problem_type"] = "single_label_classification"  # what was said is of the base's own labels
        if reads_images(info.family):
            written_as = class_name(info.family, _image_class(architecture, info.pooling, head))
        elif info.pooling == "pooler":
            written_as = class_name(info.family, "ForSequenceClassification")
        else:
            written_as = class_name(info.family, "Model")
            dense = to_foreign({"head": kept["params"].pop("head")}, DENSE_HEAD, {})
    if has_class(info.family):
        config["architectures"] = [written_as]
    if written_as == read_as or not has_class(info.family):
        tensors = {**info.carried, **to_foreign(kept, names, info.names, copies=info.copies)}
    else:  # the file of another class: its present names, and what belongs to the backbone of what was carried
        front = "" if written_as == class_name(info.family, "Model") else names.prefixes[0]
        carried = _of_backbone(info.carried, names, prefix(info.names.values(), names), front)
        tensors = {**carried, **to_foreign(kept, names, {}, front), **_counts(kept, names, info, front)}
    _set_dtype(config, tensors)
    return _Contents(config, tensors, dense, str(info.pooling), info.processor, info.source)


def _image_class(architecture: ModuleType, pooling: str | None, head: Mapping[str, Any]) -> str:
    """What the class of a classifier of images ends in; raises `InputError` where there is none."""
    kind, over = architecture.CLASSIFIER
    if pooling != over:
        raise InputError(
            f"no class of transformers has a classifier of images over {pooling} pooling: fine-tune with "
            f"--pooling {over}"
        )
    others: tuple[str, ...] = tuple(getattr(architecture, "HEADS", ()))
    return str(kind) if head.keys() == {"kernel", "bias"} else others[0]


def _counts(variables: Mapping[str, Any], names: NameMap, info: ModelInfo, front: str) -> dict[str, np.ndarray]:
    """How many batches each batch norm has seen, under the names of the class that is written.

    transformers misses them where they are not there, though nothing depends on them: the file's, or else 0.
    """
    counts = {}
    for path in paths(variables):
        if path.startswith(f"{STATISTICS}/") and path.endswith("/mean"):
            read, written = info.names.get(path, ""), names.to_foreign(path, front) or ("", "copy")
            known = info.carried.get(_count_of(read))
            counts[_count_of(written[0])] = np.zeros((), np.int64) if known is None else known
    return counts


def _count_of(mean: str) -> str:
    """The name of the count of batches beside the running mean of that name."""
    return mean.removesuffix("running_mean") + _COUNT


def _check_format(asked: str | None, model: Model, contents: _Contents) -> None:
    """Refuse a form that cannot hold the head, or a name that is none."""
    if asked is None:
        return
    if asked not in FORMATS:
        raise InputError(f"unknown format {asked!r}{did_you_mean(asked, FORMATS)}")
    if not model.info.family:
        raise InputError(f"somebody's own network is written under its own paths: there is no {asked} form of it")
    if asked == "sentence-transformers" and reads_images(model.info.family):
        raise InputError("a sentence-transformers folder is of texts: --format hf holds a model of images")
    if not has_class(model.info.family):
        raise InputError(
            f"transformers has no class that computes a {model.info.family}: without --format it is written for tl.load"
        )
    pooling = contents.pooling
    if asked == "hf" and contents.dense is not None:
        raise InputError(
            f"no class of transformers has a classifier over {pooling} pooling: --format sentence-transformers holds "
            "it, or fine-tune with --pooling pooler"
        )
    if asked == "sentence-transformers" and pooling == "none":
        raise InputError("a sentence-transformers folder cannot hold a language model: --format hf does")
    if asked == "sentence-transformers" and pooling not in MODES and "head" not in model.names:
        raise InputError(
            f"a sentence-transformers folder has no {pooling}: --pooling {', '.join(MODES[:-1])} or {MODES[-1]}"
        )
    if asked == "sentence-transformers" and "head" in model.names and contents.dense is None:
        raise InputError(
            f"a sentence-transformers folder cannot hold a classifier over the model's own {pooling}: "
            "--format hf holds it, or fine-tune with --pooling mean"
        )


def _check_merged(model: Model, variables: Mapping[str, Any]) -> None:
    if model.hooks or paths({"adapters": variables.get("adapters") or {}}):
        raise InputError("the variables hold adapters, which a folder of the model cannot: merge them first")


def _check_writable(model: Model, variables: Mapping[str, Any]) -> None:
    """Refuse what a folder of the family's class cannot hold."""
    info = model.info
    architecture = family(info.family)
    whole = [stage.name for stage in architecture.stages(architecture.CONFIG(info.config), info.pooling)]
    if lacking := [name for name in whole if name not in model.names]:
        raise InputError(
            f"the chain is truncated: it lacks {', '.join(lacking)}, without which no class of transformers computes it"
        )
    if foreign := [name for name in model.names if name not in (*whole, "head")]:
        raise InputError(f"no class of transformers has the stages {', '.join(foreign)}")
    expected = {path: tuple(leaf.shape) for path, leaf in paths(model.shapes()).items()}
    given = {path: tuple(np.shape(leaf)) for path, leaf in paths(variables).items()}
    if wrong := sorted(path for path in {*expected, *given} if expected.get(path) != given.get(path)):
        raise InputError(
            "the params are not those of the model: "
            + "; ".join(f"{p} is {given.get(p, 'missing')}, expected {expected.get(p, 'nothing')}" for p in wrong[:8])
            + (" …" if len(wrong) > 8 else "")
        )


def _label_config(given: Sequence[str] | None, known: Sequence[str] | None, count: int) -> dict[str, Any]:
    """What config.json says of the labels that are given, or else of the model's own."""
    named = given if given is not None else known
    labels = [f"LABEL_{i}" for i in range(count)] if named is None else [str(label) for label in named]
    # A model's own may name two outputs alike: ImageNet has a crane that flies and a crane that lifts.
    if len(labels) != count or (given is not None and len(set(labels)) != count):
        raise InputError(f"the head has {count} outputs, which need as many different labels, not {labels}")
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _of_backbone(carried: Mapping[str, Any], names: NameMap, read: str, front: str) -> dict[str, Any]:
    """The carried tensors that lie behind the prefix `read`, the head's left out, behind the prefix `front` instead."""
    own = (name for name in carried if name.startswith(read) and not name.endswith(_COUNT))
    return {front + name.removeprefix(read): carried[name] for name in own if not names.is_classifiers(name)}


def _set_dtype(config: dict[str, Any], tensors: Mapping[str, Any]) -> None:
    """Make config.json name the dtype of the weights, the wider of several; older files call the key torch_dtype."""
    dtypes = [a.dtype for a in tensors.values() if jnp.issubdtype(a.dtype, jnp.floating)]
    widest = jnp.dtype(reduce(jnp.promote_types, dtypes)).name
    key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    if (config.get(key) or "float32") != widest:
        config[key] = widest


def _write(contents: _Contents, folder: Path, max_shard_size: int | str | None) -> None:
    write_json(folder / "config.json", contents.config)
    write_folder(folder, contents.tensors, max_shard_size)
    if isinstance(contents.processor, ImageProcessor | TextProcessor):
        contents.processor.write(folder)
    if isinstance(contents.source, Source):
        beside = [name for name in BESIDE if (contents.source.folder / name).is_file()]
        links.check(contents.source.folder, [contents.source.folder / name for name in beside])
        for name in beside:
            copy(contents.source.folder / name, folder / name)
    if contents.pooling in MODES and not reads_images(contents.config["model_type"]):
        _write_modules(contents, folder)
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def _write_modules(contents: _Contents, folder: Path) -> None:
    """The modules of a pooled encoder: those it came with, or new ones where it is to have some."""
    width = family(contents.config["model_type"]).CONFIG(contents.config).hidden_size
    folders = isinstance(contents.source, Source) and contents.source.file is None and contents.dense is None
    if folders and copy_modules(contents.source.folder, contents.pooling, width, folder):
        return
    if contents.modules:
        most = None if contents.processor is None else contents.processor.max_length
        write_modules(folder, contents.pooling, width, most, contents.dense)
