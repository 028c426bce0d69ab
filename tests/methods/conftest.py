"""Small models the methods are tried on: BERT of three layers, and chains for the seams that BERT does not use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.model import Model, ModelInfo
from tl_jax.models import bert
from tl_jax.models.conv_layers import BatchNorm
from tl_jax.models.layers import Dense, Module, compact, head_stage
from tl_jax.stage import Stage

RAW = {
    "vocab_size": 40,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.1,
}


@dataclass(frozen=True)
class Toy:
    """A model with a head of three labels, the variables of all but the head, and a batch."""

    model: Model
    variables: dict[str, Any]
    batch: dict[str, Any]
    inputs: dict[str, Any] | None = None


def tokens(rng: np.random.Generator) -> dict[str, Any]:
    """Four rows of seven positions, each row with padding of its own."""
    mask = np.arange(7) < rng.integers(2, 8, (4, 1))
    return {"tokens": jnp.asarray(rng.integers(0, 40, (4, 7)), jnp.int32), "mask": jnp.asarray(mask)}


@cache
def body_of_bert(pooling: str) -> tuple[Model, dict[str, Any]]:
    info = ModelInfo(family="bert", alias=bert.NAMES.alias)
    model = Model(bert.stages(bert.CONFIG(RAW), pooling), info=info)
    return model, model.init(jax.random.key(0))


def of_bert(pooling: str, rng: np.random.Generator) -> Toy:
    body, variables = body_of_bert(pooling)
    return Toy(body.attach(head_stage(3, init_std=0.5)), variables, tokens(rng))


@pytest.fixture(params=["mean", "pooler"])
def toy(request: pytest.FixtureRequest, rng: np.random.Generator) -> Toy:
    """BERT of three layers, with and without parameters in its pooler."""
    return of_bert(request.param, rng)


@pytest.fixture
def mean(rng: np.random.Generator) -> Toy:
    return of_bert("mean", rng)


@pytest.fixture
def pooled(rng: np.random.Generator) -> Toy:
    return of_bert("pooler", rng)


class Block(Module):
    """A dense layer: `hidden [B, T, D] -> [B, T, D]`."""

    width: int
    norm: bool = False
    dtype: Any = None

    @compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = jnp.tanh(Dense(self.width, dtype=self.dtype, name="dense")(x))
        return BatchNorm(name="norm", dtype=self.dtype)(x, train) if self.norm else x


def _chain(rng: np.random.Generator, *blocks: Stage) -> Toy:
    first = Stage("stem", Block(6), ("pooled",), ("pooled",))
    body = Model((first, *blocks), inputs=("pooled",))
    inputs = {"pooled": jax.ShapeDtypeStruct((1, 5), jnp.float32)}
    batch = {"pooled": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)}
    return Toy(body.attach(head_stage(3, init_std=0.5)), body.init(jax.random.key(0), inputs), batch, inputs)


def _block(name: str, **settings: Any) -> Stage:
    return Stage(name, Block(6, norm=settings.pop("norm", False)), ("pooled",), ("pooled",), **settings)


@pytest.fixture
def shared(rng: np.random.Generator) -> Toy:
    """Three layers of one scope, as ALBERT has."""
    return _chain(rng, *(_block(f"layers_{i}", scope="layers") for i in range(3)))


@pytest.fixture
def tied(rng: np.random.Generator) -> Toy:
    """`blocks_1` reads the kernel of `blocks_0`."""
    kernel = ("dense/kernel", "blocks_0/dense/kernel")
    return _chain(rng, _block("blocks_0"), _block("blocks_1", borrows=(kernel,)))


@pytest.fixture
def normed(rng: np.random.Generator) -> Toy:
    """Two blocks with batch norm."""
    return _chain(rng, _block("blocks_0", norm=True), _block("blocks_1", norm=True))
