"""Families of encoders as transformers computes them, a row each: what an odd configuration of it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tl_jax.models.layers import ACTIVATIONS

LENGTH = 7


@dataclass(frozen=True)
class Encoder:
    """A family: its `model_type`, whether its plain model has a pooler, and what its config.json has of its own.

    `keys` are its words for BERT's keys, None for what it has not; `own` draws the rest.
    """

    model_type: str
    pooler: bool
    keys: Mapping[str, str | None] = field(default_factory=dict)
    own: Callable[[np.random.Generator], dict[str, Any]] = lambda rng: {}

    @property
    def has_types(self) -> bool:
        """Whether it has token types."""
        return "type_vocab_size" in self.named({"type_vocab_size": 1})

    def draw(self, rng: np.random.Generator, **given: Any) -> dict[str, Any]:
        """An odd configuration: what is a power of two, even or 2 elsewhere is not here. `given` has BERT's keys."""
        heads = int(rng.choice([3, 5]))
        raw = {
            "vocab_size": int(rng.integers(5, 40)),
            "hidden_size": heads * int(rng.integers(2, 5)),
            "num_hidden_layers": int(rng.choice([1, 3])),
            "num_attention_heads": heads,
            "intermediate_size": 2 * int(rng.integers(3, 12)) + 1,
            "hidden_act": str(rng.choice(sorted(ACTIVATIONS))),
            "max_position_embeddings": int(rng.integers(LENGTH, LENGTH + 5)),
            "type_vocab_size": int(rng.choice([1, 3])),
            "layer_norm_eps": float(rng.choice([1e-5, 1e-12])),
        }
        return self.named(raw | self.own(rng) | given)

    def named(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration with BERT's keys in the family's words."""
        known = {self.keys.get(key, key): value for key, value in raw.items()}
        return {key: value for key, value in known.items() if key is not None}

    def inputs(self, raw: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Four examples of which at least one is padded and one is not. The pad token, of which torch keeps no
        gradient, is padding alone."""
        rows, pad = 4, raw.get("pad_token_id", 0)
        lengths = np.asarray([LENGTH, 1, *rng.integers(1, LENGTH, rows - 2)])
        mask = np.arange(LENGTH) < lengths[:, None]
        tokens = rng.choice([i for i in range(raw["vocab_size"]) if i != pad], (rows, LENGTH))
        types = rng.integers(0, raw.get("type_vocab_size", 1), (rows, LENGTH)) * mask
        return {
            "tokens": np.where(mask, tokens, pad).astype(np.int32),
            "mask": mask,
            "token_type": types.astype(np.int32),
        }


def _paddings_own(rng: np.random.Generator) -> dict[str, Any]:
    """A pad token, the rows that it takes from the table of positions, and a dropout of the classifier's own."""
    pad = int(rng.choice([0, 1, 2, 4]))
    rows = LENGTH + pad + 1 + int(rng.integers(0, 4))
    return {"pad_token_id": pad, "max_position_embeddings": rows, "classifier_dropout": float(rng.choice([0.0, 0.3]))}


ENCODERS = (
    Encoder("bert", pooler=True),
    Encoder("roberta", pooler=True, own=_paddings_own),
    Encoder(
        "distilbert",
        pooler=False,
        keys={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "type_vocab_size": None,
            "layer_norm_eps": None,
        },
        own=lambda rng: {"seq_classif_dropout": 0.3, "sinusoidal_pos_embds": bool(rng.integers(2))},
    ),
)
