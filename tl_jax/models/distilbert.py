"""DistilBERT (Sanh et al. 2019) as transformers computes it: half a BERT, without token types and without a pooler.

The classifier of transformers has a dense layer with ReLU over the first token below its last layer, `pre_classifier`.
It is the stage `pooler` here, which only a classifier's file holds, and the `head` above it one kernel and one bias.
`sinusoidal_pos_embds` says what positions were before training: they are read from the file like any others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tl_jax.models import configs
from tl_jax.models.layers import EncoderLayer, TextEmbeddings, activation, pooler_stage
from tl_jax.models.names import Entry, NameMap, dense, norm
from tl_jax.stage import Stage

_EPSILON = 1e-12  # of its norms, which no config says


@dataclass(frozen=True)
class DistilbertConfig:
    """What config.json says of the architecture, in its own words."""

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    hidden_dim: int
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    max_position_embeddings: int = 512
    initializer_range: float = 0.02

    @property
    def hidden_size(self) -> int:
        """The width of the chain."""
        return self.dim

    @property
    def positions(self) -> int:
        """The most tokens a text can have."""
        return self.max_position_embeddings


def CONFIG(raw: Mapping[str, Any]) -> DistilbertConfig:
    """Read config.json; raises `InputError` for keys that are missing and activations we do not know."""
    required = ("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim")
    config = configs.read(DistilbertConfig, raw, "DistilBERT", required, "dim", "n_heads")
    activation(config.activation)
    return config


def stages(config: DistilbertConfig, pooling: str) -> tuple[Stage, ...]:
    """The chain: `embeddings`, `layers_i`, `pooler`. `pooling` is one of `layers.POOLINGS`."""
    c = config
    embeddings = TextEmbeddings(
        c.vocab_size,
        c.dim,
        c.max_position_embeddings,
        dropout=c.dropout,
        epsilon=_EPSILON,
        init_std=c.initializer_range,
    )
    layer = EncoderLayer(
        c.n_heads,
        c.hidden_dim,
        c.activation,
        c.attention_dropout,
        mlp_dropout=c.dropout,
        epsilon=_EPSILON,
        init_std=c.initializer_range,
    )
    return (
        Stage("embeddings", embeddings, ("tokens", "positions", "noise"), ("hidden",)),
        *(Stage(f"layers_{i}", layer, ("hidden", "segments", "noise"), ("hidden",)) for i in range(c.n_layers)),
        pooler_stage(pooling, c.initializer_range, activation="relu"),
    )


_LAYER = "transformer.layer.{i}"
NAMES = NameMap(
    (
        Entry("embeddings.word_embeddings.weight", "embeddings/token/embedding"),
        Entry("embeddings.position_embeddings.weight", "embeddings/position/embedding"),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
        *dense(f"{_LAYER}.attention.q_lin", "layers_{i}/attention/query"),
        *dense(f"{_LAYER}.attention.k_lin", "layers_{i}/attention/key"),
        *dense(f"{_LAYER}.attention.v_lin", "layers_{i}/attention/value"),
        *dense(f"{_LAYER}.attention.out_lin", "layers_{i}/attention/out"),
        *norm(f"{_LAYER}.sa_layer_norm", "layers_{i}/attention_norm"),
        *dense(f"{_LAYER}.ffn.lin1", "layers_{i}/mlp/up"),
        *dense(f"{_LAYER}.ffn.lin2", "layers_{i}/mlp/down"),
        *norm(f"{_LAYER}.output_layer_norm", "layers_{i}/mlp_norm"),
    ),
    classifier=(*dense("pre_classifier", "pooler/dense"), *dense("classifier", "head")),
    prefixes=("distilbert.",),
    ignored=(r"embeddings\.position_ids", r"vocab_(transform|layer_norm|projector)\..*", r"qa_outputs\..*"),
)
