"""LoRA on real weights: factored equals merged (law 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.methods import merge, parse
from tl_jax.models.layers import head_stage
from tl_jax.pretrained import load
from tl_jax.rules import map_paths


@pytest.mark.parametrize("method", ["lora", "lora:rank=4,alpha=16,targets=all"])
def test_factored_is_merged_on_minilm(minilm: Path, rng: np.random.Generator, method: str) -> None:
    model, variables = load(str(minilm))
    plan = parse(method)(model.attach(head_stage(8)), variables, jax.random.key(0))
    assert plan.cut == "layers_0"

    def draw(path: str, leaf: Any) -> Any:
        return jnp.asarray(rng.normal(size=leaf.shape) * 0.05, leaf.dtype) if path.startswith("adapters/") else leaf

    adapted = map_paths(draw, plan.variables)
    batch = {
        "tokens": jnp.asarray(rng.integers(1000, 9000, (4, 24)), jnp.int32),
        "mask": np.arange(24) < [[24], [5], [12], [1]],
    }
    apply = jax.jit(lambda variables, model: model.apply(variables, batch)["logits"], static_argnums=1)
    plain_model, plain = merge(plan.model, adapted)
    factored, merged = np.asarray(apply(adapted, plan.model)), np.asarray(apply(plain, plain_model))
    assert np.abs(factored - merged).max() <= 1e-5 * np.abs(merged).max()  # law 2's, as between any two programs
    assert np.abs(factored - np.asarray(apply(plan.variables, plan.model))).max() > 1e-2 * np.abs(merged).max()
