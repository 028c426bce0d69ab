"""The families that can be loaded, one line each."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from types import ModuleType

from tl_jax.errors import InputError, nearest

# model_type of a config.json: the module with its CONFIG, stages and NAMES, and what its classes' names begin with
FAMILIES = {
    "bert": ("tl_jax.models.bert", "Bert"),
    "roberta": ("tl_jax.models.roberta", "Roberta"),
    "xlm-roberta": ("tl_jax.models.roberta", "XLMRoberta"),
    "camembert": ("tl_jax.models.roberta", "Camembert"),
    "distilbert": ("tl_jax.models.distilbert", "DistilBert"),
    "vit": ("tl_jax.models.vit", "ViT"),
    "deit": ("tl_jax.models.deit", "DeiT"),
}


def family(model_type: str) -> ModuleType:
    """The family's module, imported on first use; raises `InputError` naming the families there are."""
    return importlib.import_module(_entry(model_type)[0])


def reads_images(model_type: str) -> bool:
    """Whether models of this type start from images; raises `InputError` as `family` does."""
    return "image" in getattr(family(model_type), "INPUTS", ())


def class_name(model_type: str, kind: str) -> str:
    """The family's class in transformers: `class_name("bert", "Model")` is "BertModel"."""
    return _entry(model_type)[1] + kind


def named_like(names: Collection[str]) -> dict[str, int]:
    """How many of these names of tensors are those of each module of families, by its families' `model_type`s."""
    modules: dict[str, list[str]] = {}
    for model_type, (module, _) in FAMILIES.items():
        modules.setdefault(module, []).append(model_type)
    maps = {", ".join(types): family(types[0]).NAMES for types in modules.values()}
    return {types: sum(known.to_canonical(name) is not None for name in names) for types, known in maps.items()}


def _entry(model_type: str) -> tuple[str, str]:
    if model_type not in FAMILIES:
        close = nearest(model_type, FAMILIES, n=1)
        raise InputError(
            f"models of type {model_type!r:.99} are not supported; "
            + (f"the nearest is {close[0]!r}; " if close else "")
            + f"those that are: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
