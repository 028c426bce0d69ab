"""The families that can be loaded, one line each.

A family's module has `CONFIG`, which makes its config of a config.json; `stages(config, pooling)`, the chain; and
`NAMES`, its `NameMap` or a function that makes one of the config. Where it starts from images it also says

    INPUTS        the state keys that the chain starts from, ("image",); its config has an `image_shape`, (H, W, C)
    POOLINGS      the poolings there are to choose from
    CLASSIFIER    what a classifier's class in transformers ends with, and the pooling that its head is over

and where there is something to it

    infer(shapes)                      the config.json that tensors alone tell, by foreign name; None: not the family's
    HEADS                              classifiers whose head is another: the end of the class, what makes the stage
    at_size(params, config, size)      the params for images of another size
    preprocessing(config)              the preprocessor_config.json of weights that come without one
    default_pooling(config.json, paths)  what a checkpoint with these canonical paths does, if not as encoders do
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

from tl_jax.errors import InputError, nearest
from tl_jax.models.names import NameMap

# model_type of a config.json: the module, and what its classes' names begin with ("": transformers has no class)
FAMILIES = {
    "bert": ("tl_jax.models.bert", "Bert"),
    "roberta": ("tl_jax.models.roberta", "Roberta"),
    "xlm-roberta": ("tl_jax.models.roberta", "XLMRoberta"),
    "camembert": ("tl_jax.models.roberta", "Camembert"),
    "distilbert": ("tl_jax.models.distilbert", "DistilBert"),
    "vit": ("tl_jax.models.vit", "ViT"),
    "deit": ("tl_jax.models.deit", "DeiT"),
    "resnet": ("tl_jax.models.resnet", "ResNet"),
    "cifar_resnet": ("tl_jax.models.resnet", ""),
    "llama": ("tl_jax.models.llama", "Llama"),
    "mistral": ("tl_jax.models.llama", "Mistral"),
    "qwen2": ("tl_jax.models.llama", "Qwen2"),
    "qwen3": ("tl_jax.models.llama", "Qwen3"),
    "smollm3": ("tl_jax.models.llama", "SmolLM3"),
}


def family(model_type: str) -> ModuleType:
    """The family's module, imported on first use; raises `InputError` naming the families there are."""
    return importlib.import_module(_entry(model_type)[0])


def names(config: Mapping[str, Any]) -> NameMap:
    """The name map of the model that a config.json describes."""
    module = family(config["model_type"])
    known: NameMap = module.NAMES if isinstance(module.NAMES, NameMap) else module.NAMES(module.CONFIG(config))
    return known


def reads_images(model_type: str) -> bool:
    """Whether models of this type start from images; raises `InputError` as `family` does."""
    return "image" in getattr(family(model_type), "INPUTS", ())


def has_class(model_type: str) -> bool:
    """Whether transformers has classes of the family."""
    return bool(_entry(model_type)[1])


def class_name(model_type: str, kind: str) -> str:
    """The family's class in transformers: `class_name("bert", "Model")` is "BertModel"."""
    return _entry(model_type)[1] + kind


def infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The config.json of a file by the shapes of its tensors, by foreign name; None where no family knows them."""
    modules = [importlib.import_module(place) for place in dict.fromkeys(place for place, _ in FAMILIES.values())]
    said = (module.infer(shapes) for module in modules if hasattr(module, "infer"))
    return next((config for config in said if config is not None), None)


def named_like(tensors: Collection[str]) -> dict[str, int]:
    """How many of these names of tensors are those of each module of families, by its families' `model_type`s."""
    modules: dict[str, list[str]] = {}
    for model_type, (module, _) in FAMILIES.items():
        modules.setdefault(module, []).append(model_type)
    maps = {", ".join(types): names({"model_type": types[0]}) for types in modules.values()}
    return {types: sum(known.to_canonical(name) is not None for name in tensors) for types, known in maps.items()}


def _entry(model_type: str) -> tuple[str, str]:
    if model_type not in FAMILIES:
        close = nearest(model_type, FAMILIES, n=1)
        raise InputError(
            f"models of type {model_type!r:.99} are not supported; "
            + (f"the nearest is {close[0]!r}; " if close else "")
            + f"those that are: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
