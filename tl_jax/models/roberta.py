"""RoBERTa (Liu et al. 2019), XLM-RoBERTa and CamemBERT: BERT's chain with other positions and another classifier.

A text's first token is at row `pad_token_id + 1` of the table of positions: fairseq counts positions from there, and
the rows in front are padding's. The offset is added in the embeddings, so that positions themselves restart at 0 with
every example, one a row or packed. transformers leaves out pad tokens where it counts; a pad token that somebody wrote
into a text counts here as any other does.

The classifier of transformers has a dense layer with tanh over the first token below its last layer. That is BERT's
pooler under another name, `classifier.dense`, with the classifier's dropout in front of it. So it is the stage `pooler`
here, and the `head` above it one kernel and one bias, `classifier.out_proj`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tl_jax.errors import InputError
from tl_jax.models import bert
from tl_jax.models.layers import pooler_stage
from tl_jax.models.names import NameMap, dense
from tl_jax.stage import Stage


@dataclass(frozen=True)
class RobertaConfig(bert.BertConfig):
    """BERT's, and the token that fills rows up, which says where positions start."""

    pad_token_id: int = 1

    @property
    def first_position(self) -> int:
        """The row of a text's first token in the table of positions."""
        return self.pad_token_id + 1

    @property
    def positions(self) -> int:
        """The most tokens a text can have: 512 of a table of 514."""
        return self.max_position_embeddings - self.first_position


def CONFIG(raw: Mapping[str, Any]) -> RobertaConfig:
    """Read config.json; raises `InputError` for keys that are missing or variants of RoBERTa we do not compute."""
    config = bert.read(RobertaConfig, raw, "RoBERTa")
    if config.positions < 1:
        raise InputError(
            f"config.json: max_position_embeddings {config.max_position_embeddings} leaves no position to a text: "
            f"those up to pad_token_id {config.pad_token_id} are padding's"
        )
    return config


def stages(config: RobertaConfig, pooling: str) -> tuple[Stage, ...]:
    """The chain: `embeddings`, `layers_i`, `pooler`. `pooling` is one of `layers.POOLINGS`."""
    dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    pooler = pooler_stage(pooling, config.initializer_range, dropout=dropout)
    return *bert.encoder(config, config.first_position), pooler


NAMES = NameMap(
    bert.BACKBONE,
    classifier=(*dense("classifier.dense", "pooler/dense"), *dense("classifier.out_proj", "head")),
    prefixes=("roberta.",),
    # the last is the head of the classes that label tokens or choose among texts
    ignored=(r"embeddings\.position_ids", r"lm_head\..*", r"qa_outputs\..*", r"classifier\.(weight|bias)"),
)
