"""Networks as somebody writes them who never heard of stages, and some steps of training them."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.training.toy import hyper, loss
from tl_jax.model import Model
from tl_jax.models.heads import classifier
from tl_jax.rules import match, paths
from tl_jax.training.optimizer import OptimizerSpec
from tl_jax.training.state import create
from tl_jax.training.state import variables as variables_of
from tl_jax.training.step import train_step

VOCABULARY, WIDTH, LABELS = 13, 6, 3


class Encoder(nn.Module):
    """Tokens to one vector a row, as somebody writes it who never heard of stages."""

    width: int = WIDTH
    rate: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens, mask=None, *, train: bool = False):
        x = nn.Embed(VOCABULARY, self.width, dtype=self.dtype, name="embed")(tokens)
        x = x + nn.tanh(nn.Dense(self.width, dtype=self.dtype, name="query")(x))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        if mask is None:
            return x.mean(1)
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


class Net(nn.Module):
    """An image net with batch norms, told their mode as the examples of Flax tell them: by their constructor."""

    @nn.compact
    def __call__(self, image, train=True):
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        for i in range(2):
            image = nn.relu(norm(name=f"norm_{i}")(nn.Conv(4, (3, 3), name=f"conv_{i}")(image)))
        return nn.Dense(LABELS, name="dense")(image.mean((1, 2)))


def linear(params, tokens, mask):
    """A function of params and arrays."""
    x = params["table"][tokens] * mask[..., None]
    return jnp.tanh(x.sum(1) @ params["out"]["kernel"] + params["out"]["bias"])


def table(rng: np.random.Generator) -> dict[str, Any]:
    drawn = {"table": (VOCABULARY, WIDTH), "kernel": (WIDTH, LABELS), "bias": (LABELS,)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in drawn.items()}
    return {"params": {"table": values["table"], "out": {"kernel": values["kernel"], "bias": values["bias"]}}}


def encoder(**options: Any) -> Model:
    return Model.from_linen(Encoder(**options), writes="pooled")


def headed(model: Model) -> Model:
    return model.attach(classifier(LABELS, {}))


def steps(model: Model, variables: Any, labels: Any, batch: Any, count: int = 3) -> dict[str, Any]:
    """The variables after some steps of Adam."""
    tx = OptimizerSpec().build(labels)
    state = create(variables, labels, tx, jax.random.key(1))
    step = jax.jit(train_step(model, loss, tx))
    for _ in range(count):
        state, _ = step(state, batch, hyper())
    return variables_of(state)


def decided(rules: Any, variables: Any) -> Any:
    return match(rules, {name: tree for name, tree in variables.items() if name != "batch_stats"})


def moved(before: Any, after: Any) -> set[str]:
    old, new = paths(before), paths(after)
    assert old.keys() == new.keys()
    return {path for path in old if np.asarray(old[path]).tobytes() != np.asarray(new[path]).tobytes()}
