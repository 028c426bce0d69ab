"""DeiT (Touvron et al. 2021) as transformers computes it: ViT with a distillation token behind the class token.

A model distilled from a teacher has two heads, one over each token, and answers with the average of their logits. They
are one stage `head` here, with `distillation` beside its own kernel and bias. A new task has no teacher: its head is
over the class token alone, and what was fine-tuned is a `DeiTForImageClassification`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from tl_jax.models import vit
from tl_jax.models.layers import Dense, Module, compact, normal
from tl_jax.models.names import Entry, NameMap, dense
from tl_jax.stage import Stage

INPUTS, POOLINGS, CLASSIFIER = vit.INPUTS, vit.POOLINGS, vit.CLASSIFIER
FRONT = ("class_token", "distillation_token")


def CONFIG(raw: Mapping[str, Any]) -> vit.VitConfig:
    """Read config.json; raises `InputError` for keys that are missing or variants of DeiT we do not compute."""
    return vit.read(vit.VitConfig, raw, "DeiT")


def stages(config: vit.VitConfig, pooling: str) -> tuple[Stage, ...]:
    """The chain: `embeddings`, `layers_i`, `norm`, `pooler`; `pooling` is one of `POOLINGS`."""
    return vit.stages(config, pooling, FRONT)


def at_size(params: Mapping[str, Any], config: vit.VitConfig, size: vit.Size) -> dict[str, Any]:
    """The params for images of another size; see `vit.at_size`."""
    return vit.at_size(params, config, size, len(FRONT))


class DistilledHead(Module):
    """The average of two linear classifiers, over the class token and the distillation token.

    `pooled [B, D]`, `hidden [B, T, D]` to `logits` float32 `[B, labels]`.
    """

    labels: int
    init_std: float = 0.02
    dtype: Any = None

    @compact
    def __call__(self, pooled: Array, hidden: Array, train: bool) -> Array:
        init = normal(self.init_std)
        kernel = self.param("kernel", init, (pooled.shape[-1], self.labels), jnp.float32)
        bias = self.param("bias", lambda _, *of: jnp.zeros(*of), (self.labels,), jnp.float32)
        own = pooled.astype(jnp.float32) @ kernel.astype(jnp.float32) + bias.astype(jnp.float32)
        taught = Dense(self.labels, dtype=jnp.float32, kernel_init=init, name="distillation")
        return (own + taught(hidden[:, 1])) / 2


def _distilled(labels: int, config: Mapping[str, Any]) -> Stage:
    return Stage(
        "head", DistilledHead(labels, float(config.get("initializer_range", 0.02))), ("pooled", "hidden"), ("logits",)
    )


# Heads that are not one linear layer, by the class of transformers that has them.
HEADS = {"ForImageClassificationWithTeacher": _distilled}

NAMES = NameMap(
    (*vit.BACKBONE, Entry("embeddings.distillation_token", "embeddings/distillation_token", "row")),
    classifier=(
        *(
            Entry(entry.foreign, entry.canonical, entry.transform, older=(f"cls_{entry.foreign}",))
            for entry in dense("classifier", "head")
        ),
        *dense("distillation_classifier", "head/distillation"),
    ),
    prefixes=("deit.",),
    ignored=vit.IGNORED,
)
