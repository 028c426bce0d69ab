"""Somebody's own tokenizer as the processor of a model that reads texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tl_jax.errors import InputError
from tl_jax.pretrained.tokenizer import EncodedTexts, padded


@dataclass(frozen=True, eq=False)
class OwnTokenizer:
    """`tokenize(text)` gives the token ids of one text; `processor(["where is my parcel?"])` what `Model.apply` takes.

    `max_length` is the most tokens of a text, what is longer loses its end; `pad_id` fills rows up and is masked.
    """

    tokenize: Callable[[str], Sequence[int]]
    max_length: int
    pad_id: int = 0

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None) -> dict[str, np.ndarray]:
        """`tokens`, `token_type`, `positions`, `segments` (int32) and `mask` (bool), all `[N, T]`."""
        return padded(self.encode(texts, max_length), self.pad_id)

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> EncodedTexts:
        """Encode `texts` without padding. Raises `InputError` for ids that are not a list of whole numbers."""
        if isinstance(texts, str):
            raise InputError("give the tokenizer a list of texts, not one text")
        limit = self.max_length if max_length is None else max_length
        found = EncodedTexts()
        for i, text in enumerate(texts):
            ids = np.asarray(self.tokenize(text))
            if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
                raise InputError(
                    f"the tokenizer gave {ids.dtype} {list(ids.shape)} for text {i}: it must give token ids"
                )
            found.truncated += len(ids) > limit
            ids = ids[:limit].astype(np.int32)
            found.append((ids, np.zeros_like(ids)))
        return found
