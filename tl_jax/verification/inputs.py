"""What a model is asked when it is verified: a few short texts, and tokens from all over its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.families import family
from tl_jax.pretrained.tokenizer import EncodedTexts, TextProcessor, padded

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


def ids(rows: Mapping[str, np.ndarray]) -> list[list[int]]:
    """The tokens of each row of a batch, without the padding."""
    return [row[mask].tolist() for row, mask in zip(rows["tokens"], rows["mask"], strict=True)]


def batch(model: Model) -> dict[str, np.ndarray]:
    """The same rows for the same model, some padded: single texts, pairs and drawn tokens; `[N, T]` each key.

    Raises `InputError` for a model that does not start from tokens.
    """
    if "tokens" not in model.inputs:
        raise InputError(f"models that start from {', '.join(model.inputs)} cannot be verified, but those of text")
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
