"""What a model of texts is asked when it is verified: a few short texts, and tokens from all over its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax.model import Model
from tl_jax.models.families import family
from tl_jax.pretrained.tokenizer import EncodedTexts, TextProcessor, padded
from tl_jax.verification.verdict import Checked

PROCESSOR = "tokenizer"
HEADS = {"pooler": "AutoModelForSequenceClassification", "none": "AutoModelForCausalLM"}
# What transformers calls our inputs.
_INPUTS = {"tokens": "input_ids", "mask": "attention_mask", "token_type": "token_type_ids"}

TEXTS = ("Where is my parcel?", "I was charged twice — 20 € too much!", "naïve café, 東京, Zürich", "a")
PAIRS = ("It left on Monday.", "refund")
_LENGTH = 16  # tokens, so that what is kept of every stage is small
_SHORTEST = 8  # into which a pair of texts fits with its special tokens


def questions(model: Model) -> tuple[list[tuple[tuple[str, ...], tuple[str, ...] | None]], int]:
    """The texts with their second texts, if any, and the most tokens kept of each; none without a tokenizer."""
    if not isinstance(model.info.processor, TextProcessor):
        return [], 0
    length = min(_LENGTH, model.info.processor.max_length)
    return [(TEXTS, None), *([(TEXTS[: len(PAIRS)], PAIRS)] if length >= _SHORTEST else [])], length


def batch(model: Model) -> dict[str, np.ndarray]:
    """The same rows for the same model, some padded: single texts, pairs and drawn tokens; `[N, T]` each key."""
    info = model.info
    config, processor = info.config, info.processor
    pad = config.get("pad_token_id") or 0
    most = family(info.family).CONFIG(config).positions
    rows = EncodedTexts()
    if isinstance(processor, TextProcessor):
        pad, most = processor.pad_id, processor.max_length
        asked, length = questions(model)
        for texts, pairs in asked:
            rows.extend(processor.encode(texts, length, pairs=pairs))
    length, rng = min(_LENGTH, most), np.random.default_rng(0)
    real = np.setdiff1d(np.arange(config["vocab_size"]), [pad, config.get("pad_token_id") or 0])
    for count in (length, (length + 1) // 2, 1):
        rows.append((rng.choice(real, count).astype(np.int32), np.zeros(count, np.int32)))
    made = padded(rows, pad)
    made["token_type"] = np.minimum(made["token_type"], np.int32(config.get("type_vocab_size", 1) - 1))
    return made


def given(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch under transformers' names."""
    return {theirs: batch[ours] for ours, theirs in _INPUTS.items() if ours in batch}


def asked(model: Model) -> dict[str, Any]:
    """What transformers' tokenizer is asked: the texts, and how many tokens of each."""
    rows, length = questions(model)
    return {"texts": rows, "length": length} if rows else {}


def prepared(batch: Mapping[str, np.ndarray]) -> list[list[int]]:
    """The tokens of each row of a batch, without the padding; those of texts come first."""
    return [row[mask].tolist() for row, mask in zip(batch["tokens"], batch["mask"], strict=True)]


def compared(ours: Sequence[list[int]], theirs: Sequence[list[int]], where: str) -> Checked:
    """Whether texts become the same tokens."""
    differing = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), None)
    if differing is None and len(ours) == len(theirs):
        return Checked(PROCESSOR, "tokens", 0.0, 0.0)
    mine, other = differing or ([], [])
    return Checked(PROCESSOR, "tokens", faults=(f"a text becomes {mine[:8]}, and {other[:8]} {where}",))
