"""How well a language model predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Language:
    """Perplexity, exp of the mean loss in nats over the tokens that were to be predicted, and how many were hit.

    `outputs` hold "losses" and "hits" `[…]`, the batch "targets" `[…]`, negative where nothing is predicted. Sums are
    of float64.
    """

    loss: float = 0.0
    hits: int = 0
    tokens: int = 0

    def update(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Language:
        """The sums of this batch alone; see `Metrics`."""
        asked = np.asarray(batch["targets"]) >= 0
        losses = np.asarray(outputs["losses"], np.float64)[asked]
        return Language(float(losses.sum()), int(np.asarray(outputs["hits"])[asked].sum()), int(asked.sum()))

    def merge(self, other: Language) -> Language:
        """The sums of both."""
        return Language(self.loss + other.loss, self.hits + other.hits, self.tokens + other.tokens)

    def result(self) -> dict[str, Any]:
        """{"perplexity", "token_accuracy", "tokens"}; raises ValueError when nothing was predicted."""
        if not self.tokens:
            raise ValueError("no token was predicted")
        mean = self.loss / self.tokens
        return {
            "perplexity": math.exp(mean) if mean < 700 else math.inf,
            "token_accuracy": self.hits / self.tokens,
            "tokens": self.tokens,
        }
