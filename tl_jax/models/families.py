"""The families that can be loaded: `model_type` of a config.json to the module with its `CONFIG`, `stages`, `NAMES`."""

from __future__ import annotations

import importlib
from types import ModuleType

from tl_jax.errors import InputError

FAMILIES = {
    "bert": "tl_jax.models.bert",
}


def family(model_type: str) -> ModuleType:
    """The family's module, imported on first use; raises `InputError` naming the families there are."""
    if model_type not in FAMILIES:
        raise InputError(f"models of type {model_type!r} are not supported; those that are: {', '.join(FAMILIES)}")
    return importlib.import_module(FAMILIES[model_type])
