"""Tasks: what to learn. Each gives encoding, head, loss, metrics and decoding; one file each, one line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_jax.tasks.causal_lm import CausalLM
    from tl_jax.tasks.image_classification import ImageClassification
    from tl_jax.tasks.text_classification import TextClassification

TASKS = {  # file: the class in it
    "text_classification": "TextClassification",
    "image_classification": "ImageClassification",
    "causal_lm": "CausalLM",
}


def task_class(name: str) -> Any:
    """The class of the task that `--task NAME` names."""
    return getattr(importlib.import_module(f"tl_jax.tasks.{name}"), TASKS[name])


def is_labelled(task: Any) -> bool:
    """Whether the examples of a task, an object or its class, have labels; those that encode by themselves have not."""
    return not hasattr(task, "encode")


def __getattr__(name: str) -> Any:
    for file, cls in TASKS.items():
        if name == cls:
            return task_class(file)
    raise AttributeError(f"module 'tl_jax.tasks' has no attribute {name!r}")


__all__ = ["TASKS", "CausalLM", "ImageClassification", "TextClassification", "is_labelled", "task_class"]
