"""BERT (Devlin et al. 2019) as transformers computes it: `embeddings`, `layers_0` …, `pooler`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tl_jax.errors import InputError
from tl_jax.models import configs
from tl_jax.models.layers import EncoderLayer, TextEmbeddings, activation, pooler_stage
from tl_jax.models.names import Entry, NameMap, dense, norm
from tl_jax.stage import Stage


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

    @property
    def positions(self) -> int:
        """The most tokens a text can have."""
        return self.max_position_embeddings


Config = TypeVar("Config", bound=BertConfig)


def CONFIG(raw: Mapping[str, Any]) -> BertConfig:
    """Read config.json; raises `InputError` for keys that are missing or variants of BERT we do not compute."""
    return read(BertConfig, raw, "BERT")


def read(kind: type[Config], raw: Mapping[str, Any], family: str) -> Config:
    """`CONFIG` for families whose config.json has BERT's keys; `family` is their name in messages."""
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = configs.read(kind, raw, family, required, "hidden_size", "num_attention_heads")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        said = raw["position_embedding_type"]
        raise InputError(f"config.json: position_embedding_type {said!r} is not supported, only 'absolute'")
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise InputError(f"config.json: a {family} decoder (is_decoder, add_cross_attention) is not supported")
    activation(config.hidden_act)
    return config


def stages(config: BertConfig, pooling: str) -> tuple[Stage, ...]:
    """The chain: `embeddings`, `layers_i`, `pooler`. `pooling` is one of `layers.POOLINGS`."""
    return *encoder(config), pooler_stage(pooling, config.initializer_range)


def encoder(config: BertConfig, first: int = 0) -> tuple[Stage, ...]:
    """The chain below the pooler; `first` is the row of position 0 in the table of positions."""
    c = config
    embeddings = TextEmbeddings(
        c.vocab_size,
        c.hidden_size,
        c.max_position_embeddings,
        c.type_vocab_size,
        first,
        c.hidden_dropout_prob,
        c.layer_norm_eps,
        c.initializer_range,
    )
    layer = EncoderLayer(
        c.num_attention_heads,
        c.intermediate_size,
        c.hidden_act,
        c.attention_probs_dropout_prob,
        c.hidden_dropout_prob,
        c.hidden_dropout_prob,
        c.layer_norm_eps,
        c.initializer_range,
    )
    layers = (
        Stage(f"layers_{i}", layer, ("hidden", "segments", "noise"), ("hidden",)) for i in range(c.num_hidden_layers)
    )
    return Stage("embeddings", embeddings, ("tokens", "positions", "noise", "token_type"), ("hidden",)), *layers


_LAYER = "encoder.layer.{i}"
BACKBONE = (
    Entry("embeddings.word_embeddings.weight", "embeddings/token/embedding", "copy"),
    Entry("embeddings.position_embeddings.weight", "embeddings/position/embedding", "copy"),
    Entry("embeddings.token_type_embeddings.weight", "embeddings/token_type/embedding", "copy"),
    *norm("embeddings.LayerNorm", "embeddings/norm"),
    *dense(f"{_LAYER}.attention.self.query", "layers_{i}/attention/query"),
    *dense(f"{_LAYER}.attention.self.key", "layers_{i}/attention/key"),
    *dense(f"{_LAYER}.attention.self.value", "layers_{i}/attention/value"),
    *dense(f"{_LAYER}.attention.output.dense", "layers_{i}/attention/out"),
    *norm(f"{_LAYER}.attention.output.LayerNorm", "layers_{i}/attention_norm"),
    *dense(f"{_LAYER}.intermediate.dense", "layers_{i}/mlp/up"),
    *dense(f"{_LAYER}.output.dense", "layers_{i}/mlp/down"),
    *norm(f"{_LAYER}.output.LayerNorm", "layers_{i}/mlp_norm"),
    *dense("pooler.dense", "pooler/dense"),
)
NAMES = NameMap(
    BACKBONE,
    classifier=dense("classifier", "head"),
    prefixes=("bert.",),
    ignored=(r"embeddings\.position_ids", r"cls\..*", r"qa_outputs\..*"),
)
