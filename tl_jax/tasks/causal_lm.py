"""Continuing texts: a language model learns a corpus, or the completions of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from jax import Array

from tl_jax.errors import InputError
from tl_jax.metrics import Language
from tl_jax.model import Model

NOTHING = -1  # the target of a token whose next one is not asked for
Ids = npt.NDArray[np.int32]


class Windows(NamedTuple):
    """What the model sees at once: token ids, the id that follows each (`NOTHING`: not asked), and whose text it is.

    `truncated` counts the texts that lost their end.
    """

    tokens: list[Ids]
    targets: list[Ids]
    owners: list[int]
    truncated: int


@dataclass(frozen=True)
class CausalLM:
    """Predict each next token of texts, or of the completions alone where each has a prompt.

    A text longer than the model allows is cut into windows, the last token of one being the first of the next, so that
    every token but the first is predicted once. A prompt with its completion is one window; if it is too long it loses
    its end.

    Attributes:
        ends: whether the end of a text is to be predicted too, by the tokenizer's end token; None is where there are
            completions, which a model must know to end, and not where texts are passages of one that goes on.
    """

    ends: bool | None = None

    name = "causal_lm"
    reads = "tokens"
    monitor = "-perplexity"  # what the best checkpoint is best at: the lower, the better
    labels = ()
    loss = None  # none of the user's own
    pooling = "none"

    def with_labels(self, labels: tuple[str, ...]) -> CausalLM:
        """The same task: texts have no labels."""
        return self

    def attach(self, model: Model) -> Model:
        """The model, which must be a language model already; its head is pre-trained as the rest is."""
        if not model.by_token:
            raise InputError(
                f"the task causal_lm needs a language model, and this one ends with {model.names[-1]!r}: "
                "give one such as a Llama, and leave --pooling as it is"
            )
        return model

    def without_old_head(self, model: Model, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables: nothing of them is replaced."""
        return dict(variables)

    def encode(
        self, texts: Sequence[str], completions: Sequence[str] | None, processor: Any, max_length: int
    ) -> Windows:
        """The windows of `texts`, or of each as a prompt with its completion, of at most `max_length` tokens."""
        if max_length < 2:
            raise InputError(f"max_length {max_length} leaves no next token to predict: it must be 2 or more")
        end = processor.eos_id if (completions is not None if self.ends is None else self.ends) else None
        found = Windows([], [], [], 0)
        if completions is None:
            for i, ids in enumerate(processor.ids(texts)):
                for window in _cut(_ended(ids, end), max_length):
                    _add(found, i, window, 1)
            return found
        whole = processor.ids([text + more for text, more in zip(texts, completions, strict=True)])
        truncated = 0
        for i, (ids, prompt) in enumerate(zip(whole, processor.ids(texts), strict=True)):
            ids = _ended(ids, end)
            truncated += len(ids) > max_length
            _add(found, i, ids[:max_length], _common(ids, prompt))
        return found._replace(truncated=truncated)

    def total_loss(self, outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """(sum of the losses in nats, number of tokens predicted) of a batch."""
        losses, asked = _losses(outputs, batch)
        return losses.sum(), asked.sum().astype(jnp.float32)

    def report(self, outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> dict[str, Array]:
        """What the metrics need of a batch, instead of its logits: a loss and a hit for each token."""
        losses, asked = _losses(outputs, batch)
        hits = asked & (jnp.argmax(outputs["logits"], axis=-1) == batch["targets"])
        return {"losses": losses, "hits": hits}

    def new_metrics(self) -> Language:
        """Empty sums of this task's metrics."""
        return Language()


def _losses(outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> tuple[Array, Array]:
    """For each token the cross-entropy of the next one, 0 where that is not asked for, and whether it is."""
    targets = batch["targets"]
    asked = targets >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], jnp.maximum(targets, 0))
    return jnp.where(asked, losses, 0.0), asked


def _ended(ids: Ids, end: int | None) -> Ids:
    if end is None or (len(ids) and ids[-1] == end):
        return ids
    return np.append(ids, np.int32(end))


def _cut(ids: Ids, length: int) -> list[Ids]:
    """Windows of at most `length` that overlap by one token; a last one of a single token would predict nothing."""
    if len(ids) <= length:
        return [ids]
    return [ids[at : at + length] for at in range(0, len(ids) - 1, length - 1)]


def _common(ids: Ids, prompt: Ids) -> int:
    """How many tokens of the whole are the prompt's: where the two meet, a token may hold characters of both."""
    shorter = min(len(ids), len(prompt))
    differ = np.flatnonzero(ids[:shorter] != prompt[:shorter])
    return int(differ[0]) if len(differ) else shorter


def _add(found: Windows, owner: int, ids: Ids, first: int) -> None:
    """Add a window of which tokens from place `first` on are predicted."""
    if not len(ids):
        return
    targets = np.append(ids[1:], np.int32(NOTHING))
    targets[: max(first - 1, 0)] = NOTHING
    found.tokens.append(ids)
    found.targets.append(targets)
    found.owners.append(owner)
