"""Toy chains: small models that use the seams BERT does not, shared by the tests of the core.

plain    embeddings, layers with dropout, a pooled head: everything ordinary
tied     the head reads the embedding's leaf (a tied `lm_head`)
shared   three stages in one scope, told apart by a constant (ALBERT)
normed   an image net with convolutions and batch norm
resnet   a ResNet of two blocks, one of which projects its shortcut, and dropout below the head
bert     a BERT of a few hundred parameters, with a head; `roberta`, `distilbert`, `vit` and `deit` likewise
llama    a language model with a tied head, layers told apart by windows; or a decoder with a pooler and a head
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.families import family
from tl_jax.models.layers import Dropout, LayerNorm, head_stage, normal, pooler_stage
from tl_jax.rules import map_paths
from tl_jax.stage import Stage

VOCABULARY, WIDTH, LABELS = 13, 6, 3


class Lookup(nn.Module):
    """`tokens -> hidden`."""

    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Array, train: bool) -> Array:
        return nn.Embed(VOCABULARY, WIDTH, dtype=self.dtype, embedding_init=normal(1.0), name="token")(tokens)


class Block(nn.Module):
    """`hidden, noise -> hidden`: a dense layer with dropout, residual and norm."""

    dropout: float = 0.25
    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array, noise: Array | None, train: bool, slope: float = 1.0) -> Array:
        update = jnp.tanh(slope * nn.Dense(WIDTH, dtype=self.dtype, name="dense")(hidden))
        update = Dropout(self.dropout, name="dropout")(update, noise, train)
        return LayerNorm(1e-6, self.dtype, name="norm")(hidden + update)


class TiedHead(nn.Module):
    """`hidden -> logits` over the vocabulary, by the embedding's own rows, and a bias of its own."""

    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array, train: bool) -> Array:
        embedding = self.param("embedding", normal(1.0), (VOCABULARY, WIDTH), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (VOCABULARY,), jnp.float32)
        return hidden.astype(jnp.float32) @ embedding.T + bias


class Convolution(nn.Module):
    """An image of any number of channels to 4 channels, batch-normalised; written as `hidden`."""

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        hidden = nn.Conv(4, (3, 3), name="conv")(image)
        return nn.relu(nn.BatchNorm(momentum=0.9, name="norm")(hidden, use_running_average=not train))


class Average(nn.Module):
    """`hidden [B, H, W, D] -> pooled [B, D]`."""

    @nn.compact
    def __call__(self, hidden: Array, train: bool) -> Array:
        return hidden.mean((1, 2))


class PooledHead(nn.Module):
    """`pooled -> logits`."""

    @nn.compact
    def __call__(self, pooled: Array, train: bool) -> Array:
        return nn.Dense(LABELS, name="dense")(pooled)


def _embeddings() -> Stage:
    return Stage("embeddings", Lookup(), ("tokens",), ("hidden",))


def plain(layers: int = 3, dropout: float = 0.25) -> Model:
    blocks = (Stage(f"layers_{i}", Block(dropout), ("hidden", "noise"), ("hidden",)) for i in range(layers))
    return Model((_embeddings(), *blocks, pooler_stage("mean"), head_stage(LABELS, dropout, init_std=0.5)))


def tied() -> Model:
    block = Stage("layers_0", Block(), ("hidden", "noise"), ("hidden",))
    head = Stage("head", TiedHead(), ("hidden",), ("logits",), borrows=(("embedding", "embeddings/token/embedding"),))
    return Model((_embeddings(), block, head))


SLOPES = (0.5, 1.0, 2.0)


def shared() -> Model:
    blocks = (
        Stage(f"layers_{i}", Block(), ("hidden", "noise"), ("hidden",), scope="layers", constants=(("slope", slope),))
        for i, slope in enumerate(SLOPES)
    )
    return Model((_embeddings(), *blocks, pooler_stage("cls"), head_stage(LABELS, init_std=0.5)))


def normed() -> Model:
    return Model(
        (
            Stage("stem", Convolution(), ("image",), ("hidden",)),
            Stage("blocks_0", Convolution(), ("hidden",), ("hidden",)),
            Stage("pooler", Average(), ("hidden",), ("pooled",)),
            Stage("head", PooledHead(), ("pooled",), ("logits",)),
        ),
        inputs=("image",),
    )


BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 7,
    "hidden_act": "gelu",
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "initializer_range": 0.3,
}


def bert(pooling: str = "mean", **config: Any) -> Model:
    return _encoder("bert", pooling, BERT | config)


def roberta(pooling: str = "pooler", **config: Any) -> Model:
    return _encoder("roberta", pooling, BERT | {"pad_token_id": 3, "classifier_dropout": 0.3} | config)


def distilbert(pooling: str = "pooler", num_hidden_layers: int = 2) -> Model:
    raw = {"vocab_size": VOCABULARY, "dim": WIDTH, "n_layers": num_hidden_layers, "n_heads": 3, "hidden_dim": 7}
    return _encoder("distilbert", pooling, raw | {"max_position_embeddings": 16, "initializer_range": 0.3})


def llama(pooling: str = "none", num_hidden_layers: int = 2) -> Model:
    raw = {
        "model_type": "smollm3",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 7,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "attention_bias": True,
        "attention_dropout": 0.3,
        "no_rope_layer_interval": 2,
        "use_sliding_window": True,
        "sliding_window": 2,
    }
    if pooling != "none":
        return _encoder("smollm3", pooling, raw)
    architecture = family("smollm3")
    return Model(architecture.stages(architecture.CONFIG(raw), pooling))


def _encoder(model_type: str, pooling: str, config: Any) -> Model:
    architecture = family(model_type)
    stages = architecture.stages(architecture.CONFIG(config), pooling)
    return Model((*stages, head_stage(LABELS, dropout=0.2, init_std=0.5)))


VIT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 7,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.3,
    "image_size": 5,
    "patch_size": 2,
    "num_channels": 2,
}


def vit(pooling: str = "pooler", model_type: str = "vit", **config: Any) -> Model:
    architecture = family(model_type)
    stages = architecture.stages(architecture.CONFIG(VIT | config), pooling)
    return Model((*stages, head_stage(LABELS, dropout=0.2, init_std=0.5)), inputs=("image",))


def deit(pooling: str = "mean") -> Model:
    return vit(pooling, "deit")


RESNET = {
    "num_channels": 2,
    "embedding_size": 4,
    "hidden_sizes": [4, 6],
    "depths": [1, 1],
    "layer_type": "basic",
    "stem": "cifar",
}


def resnet() -> Model:
    architecture = family("cifar_resnet")
    stages = architecture.stages(architecture.CONFIG(RESNET), "pooler")
    return Model((*stages, head_stage(LABELS, dropout=0.2, init_std=0.5)), inputs=("image",))


def text(rng: np.random.Generator, rows: int = 3, length: int = 5) -> dict[str, np.ndarray]:
    """Inputs of the text chains, each row one token shorter than the one before."""
    mask = np.arange(length) < length - np.arange(rows)[:, None] % length
    return {
        "tokens": rng.integers(0, VOCABULARY, (rows, length), np.int32) * mask,
        "mask": mask,
        "noise": rng.integers(0, 2**32, (rows, length), np.uint32),
    }


def image(rng: np.random.Generator, rows: int = 4) -> dict[str, np.ndarray]:
    """Inputs of the image chains."""
    return {
        "image": rng.normal(size=(rows, 5, 5, 2)).astype(np.float32),
        "noise": rng.integers(0, 2**32, (rows, 1), np.uint32),
    }


def inputs(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs that suit the chain."""
    return image(rng) if "image" in model.inputs else text(rng)


def variables(model: Model, rng: np.random.Generator) -> dict[str, Any]:
    """Variables of the model's shapes with no leaf near zero or one; `init` itself would compile much longer."""

    def drawn(path: str, leaf: Any) -> Any:
        name = path.rpartition("/")[2]
        if name in ("kernel", "embedding"):
            return jnp.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype)
        return jnp.asarray((name in ("scale", "var")) + rng.uniform(0.05, 0.2, leaf.shape), leaf.dtype)

    return map_paths(drawn, model.shapes(inputs(model, rng)))


def fault(call, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    return str(caught.value)


def logits_grad(model, variables, inputs, **options):
    """Gradient, with respect to all parameters, of a loss that weighs the logits unevenly."""

    def loss(params):
        logits = model.apply({**variables, "params": params}, inputs, **options)["logits"]
        return (logits * jnp.arange(logits.size).reshape(logits.shape)).sum() + jnp.square(logits).sum()

    return jax.grad(loss)(variables["params"])


@dataclass(frozen=True)
class Shift:
    """Intercept: adds a vector `shift` to what the module at the site returns."""

    name: str = "shift"

    def intercept(self, site: str, leaves: Any, call: Any, *args: Any) -> Any:
        return call(*args) + leaves["shift"]


def over(*made: Any) -> Any:
    """Runs a test for each of these chains, as its argument `chain`."""
    return pytest.mark.parametrize("chain", made, ids=lambda chain: chain.__name__)


every = over(plain, tied, shared, normed, bert)
