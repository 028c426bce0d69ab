"""One label for each text: sentiment, intent, topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tl_jax.tasks.classification import Classification


@dataclass(frozen=True)
class TextClassification(Classification):
    """Classify texts into `labels`; the attributes are those of `Classification`."""

    name: ClassVar[str] = "text_classification"
    reads: ClassVar[str] = "tokens"
