"""What is in training mode, from what trains."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import numpy as np
import pytest

from tests import chains
from tl_jax.model import Model
from tl_jax.rules import paths
from tl_jax.training.modes import mode


class Bare(nn.Module):
    """Norms without parameters of their own, deep and at the top."""

    @nn.compact
    def __call__(self, image, train):
        for i in range(2):
            image = Part(name=f"part_{i}")(image, train)
        return nn.BatchNorm(use_scale=False, use_bias=False, name="last")(image.mean((1, 2)), not train)


class Part(nn.Module):
    @nn.compact
    def __call__(self, image, train):
        x = nn.Conv(4, (3, 3), name="conv")(image)
        return nn.BatchNorm(use_scale=False, use_bias=False, name="norm")(x, not train)


def said(model: Model, rng: np.random.Generator, trained: set[str]) -> dict[str, Any]:
    shapes = model.shapes(chains.inputs(model, rng))
    leaves = {path for path in paths(shapes) if not path.startswith("batch_stats/")}
    return mode(model, trained, leaves - trained, shapes["batch_stats"])


@pytest.mark.parametrize(
    ("trained", "train_from", "still"),
    [
        ({"stem/conv/kernel", "blocks_0/norm/scale"}, "stem", ()),
        ({"stem/conv/kernel"}, "stem", ("blocks_0",)),
        ({"blocks_0/conv/bias"}, "blocks_0", ("stem",)),
        ({"head/dense/kernel"}, "head", ("stem", "blocks_0")),
    ],
)
def test_stages(trained, train_from, still, rng):
    assert said(chains.normed(), rng, trained) == {"train_from": train_from, "evaluate": still}


@pytest.mark.parametrize(
    ("trained", "still"),
    [
        ({"part_0/conv/kernel"}, ("part_1/norm",)),
        ({"part_1/conv/bias"}, ("part_0/norm",)),
        ({"adapters/lora/part_1/conv/a"}, ("part_0/norm",)),
        ({"part_0/conv/kernel", "part_1/conv/kernel"}, ()),
    ],
)
def test_a_norm_without_parameters_goes_with_the_module_around_it(trained, still, rng):
    """The last one has no other around it than the whole."""
    model = Model.from_linen(Bare())
    assert said(model, rng, trained) == {"train_from": "network", "evaluate": still}
