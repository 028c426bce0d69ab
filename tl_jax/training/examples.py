"""From a data set to encoded examples: texts through the processor, labels through the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tl_jax import data
from tl_jax.errors import InputError


class Prepared(NamedTuple):
    """Encoded examples, and how many texts were longer than `max_length` and lost their end."""

    examples: data.Encoded
    truncated: int

    def note(self, max_length: int, name: str = "") -> str:
        """A sentence on what was cut; empty if nothing was."""
        if not self.truncated:
            return ""
        what = f"{name} texts".strip()
        share = f"{self.truncated:,} of {len(self.examples):,} {what}"
        return f"{share} longer than {max_length} tokens: the end is cut off (--max-length when training)"


def prepare(
    dataset: data.Dataset, columns: data.Columns, labels: Sequence[str], processor: Any, max_length: int
) -> Prepared:
    """Encode a labelled data set; an example's index is its place in `dataset`.

    Raises `InputError` for texts that are no strings or have no tokens, and labels that are missing or not in `labels`.
    """
    assert columns.label is not None
    numbers = data.class_numbers(data.label_texts(dataset, columns.label), labels, dataset.source)
    return prepare_texts(data.texts(dataset, columns.input), processor, max_length, numbers, where=dataset.where)


def prepare_windows(
    task: Any, dataset: data.Dataset, columns: data.Columns, processor: Any, max_length: int
) -> Prepared:
    """Encode texts, or prompts with their completions, as `task.encode` cuts them; each window is an example.

    Raises `InputError` where there is no token to predict in any of them.
    """
    completions = None if columns.label is None else data.texts(dataset, columns.label)
    found = task.encode(data.texts(dataset, columns.input), completions, processor, max_length)
    if not any((targets >= 0).any() for targets in found.targets):
        lack = "text is longer than a token" if completions is None else f"completion begins within {max_length} tokens"
        raise InputError(f"{dataset.source}: there is nothing to predict, for no {lack}")
    owners = np.array(found.owners, np.int32)
    return Prepared(data.Encoded.of(found.tokens, found.targets, per_token=True, owners=owners), found.truncated)


def prepare_texts(
    texts: Sequence[str],
    processor: Any,
    max_length: int,
    targets: Any = None,
    *,
    where: Callable[[int], str] = "text {}".format,
) -> Prepared:
    """Encode texts, with their targets where there are any; raises `InputError` saying where one has no tokens."""
    encoded = processor.encode(texts, max_length)
    tokens, types = [ids for ids, _ in encoded], [types for _, types in encoded]
    if (empty := next((i for i, ids in enumerate(tokens) if not len(ids)), None)) is not None:
        raise InputError(f"{where(empty)}: the text {texts[empty]!r} has no tokens")
    return Prepared(data.Encoded.of(tokens, targets, token_type=types), encoded.truncated)
