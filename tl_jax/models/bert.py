"""BERT (Devlin et al. 2019) as transformers computes it: `embeddings`, `layers_0` …, `pooler`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax import Array

from tl_jax.errors import InputError
from tl_jax.model import Stage
from tl_jax.models.layers import (
    Dropout,
    Embed,
    LayerNorm,
    Mlp,
    Module,
    ResidualNorm,
    SelfAttention,
    activation,
    compact,
    normal,
    pooler_stage,
)
from tl_jax.models.names import Entry, NameMap


@dataclass(frozen=True)
class BertConfig:
    """What config.json says of the architecture; its other keys are kept beside the model, not here."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12


def CONFIG(raw: Mapping[str, Any]) -> BertConfig:
    """Read config.json; raises `InputError` for keys that are missing or variants of BERT we do not compute."""
    fields = BertConfig.__dataclass_fields__
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    missing = [key for key in required if not isinstance(raw.get(key), int)]
    if missing:
        raise InputError(f"config.json of a BERT must have the numbers {', '.join(missing)}")
    config = BertConfig(**{key: raw[key] for key in fields if raw.get(key) is not None})
    if config.hidden_size % config.num_attention_heads:
        heads, width = config.num_attention_heads, config.hidden_size
        raise InputError(f"config.json: hidden_size {width} is not divisible by num_attention_heads {heads}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        kind = raw["position_embedding_type"]
        raise InputError(f"config.json: position_embedding_type {kind!r} is not supported, only 'absolute'")
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise InputError("config.json: a BERT decoder (is_decoder, add_cross_attention) is not supported")
    activation(config.hidden_act)
    return config


class Embeddings(Module):
    """Sum of token, position and token-type embeddings, normalised: `hidden [B, T, D]`."""

    config: BertConfig
    dtype: Any = None

    @compact
    def __call__(self, tokens: Array, positions: Array, token_type: Array, noise: Array | None, train: bool) -> Array:
        c, init = self.config, normal(self.config.initializer_range)
        hidden = Embed(c.vocab_size, c.hidden_size, dtype=self.dtype, embedding_init=init, name="token")(tokens)
        types = Embed(c.type_vocab_size, c.hidden_size, dtype=self.dtype, embedding_init=init, name="token_type")
        places = Embed(c.max_position_embeddings, c.hidden_size, dtype=self.dtype, embedding_init=init, name="position")
        hidden = hidden + types(token_type) + places(positions)
        hidden = LayerNorm(c.layer_norm_eps, self.dtype, name="norm")(hidden)
        return Dropout(c.hidden_dropout_prob, name="dropout")(hidden, noise, train)


class Layer(Module):
    """Attention and MLP, each followed by residual and norm: `hidden [B, T, D] -> [B, T, D]`."""

    config: BertConfig
    dtype: Any = None

    @compact
    def __call__(self, hidden: Array, segments: Array, noise: Array | None, train: bool) -> Array:
        c = self.config
        attention = SelfAttention(
            c.num_attention_heads,
            c.attention_probs_dropout_prob,
            c.hidden_dropout_prob,
            c.initializer_range,
            self.dtype,
            name="attention",
        )
        mlp = Mlp(c.intermediate_size, c.hidden_act, c.hidden_dropout_prob, c.initializer_range, self.dtype, name="mlp")
        update = attention(hidden, segments, noise, train)
        hidden = ResidualNorm(c.layer_norm_eps, self.dtype, name="attention_norm")(update, hidden)
        update = mlp(hidden, noise, train)
        return ResidualNorm(c.layer_norm_eps, self.dtype, name="mlp_norm")(update, hidden)


def stages(config: BertConfig, pooling: str) -> tuple[Stage, ...]:
    """The chain: `embeddings`, `layers_i`, `pooler`. `pooling` is one of `layers.POOLINGS`."""
    embeddings = Stage("embeddings", Embeddings(config), ("tokens", "positions", "token_type", "noise"), ("hidden",))
    layers = (
        Stage(f"layers_{i}", Layer(config), ("hidden", "segments", "noise"), ("hidden",))
        for i in range(config.num_hidden_layers)
    )
    return embeddings, *layers, pooler_stage(pooling, config.initializer_range)


def _dense(foreign: str, ours: str) -> tuple[Entry, ...]:
    return (
        Entry(f"{foreign}.weight", f"{ours}/kernel", "transpose"),
        Entry(f"{foreign}.bias", f"{ours}/bias", "copy"),
    )


def _norm(foreign: str, ours: str) -> tuple[Entry, ...]:
    return (
        Entry(f"{foreign}.weight", f"{ours}/scale", "copy", older=(f"{foreign}.gamma",)),
        Entry(f"{foreign}.bias", f"{ours}/bias", "copy", older=(f"{foreign}.beta",)),
    )


_LAYER = "encoder.layer.{i}"
NAMES = NameMap(
    entries=(
        Entry("embeddings.word_embeddings.weight", "embeddings/token/embedding", "copy"),
        Entry("embeddings.position_embeddings.weight", "embeddings/position/embedding", "copy"),
        Entry("embeddings.token_type_embeddings.weight", "embeddings/token_type/embedding", "copy"),
        *_norm("embeddings.LayerNorm", "embeddings/norm"),
        *_dense(f"{_LAYER}.attention.self.query", "layers_{i}/attention/query"),
        *_dense(f"{_LAYER}.attention.self.key", "layers_{i}/attention/key"),
        *_dense(f"{_LAYER}.attention.self.value", "layers_{i}/attention/value"),
        *_dense(f"{_LAYER}.attention.output.dense", "layers_{i}/attention/out"),
        *_norm(f"{_LAYER}.attention.output.LayerNorm", "layers_{i}/attention_norm"),
        *_dense(f"{_LAYER}.intermediate.dense", "layers_{i}/mlp/up"),
        *_dense(f"{_LAYER}.output.dense", "layers_{i}/mlp/down"),
        *_norm(f"{_LAYER}.output.LayerNorm", "layers_{i}/mlp_norm"),
        *_dense("pooler.dense", "pooler/dense"),
        *_dense("classifier", "head"),
    ),
    prefixes=("bert.",),
    ignored=(r"embeddings\.position_ids", r"cls\..*", r"qa_outputs\..*"),
)
