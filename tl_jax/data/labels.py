"""Label values to class names and back to class numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tl_jax.data.dataset import Dataset
from tl_jax.errors import InputError, nearest

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


def label_texts(dataset: Dataset, column: str) -> list[str]:
    """The name of each example's class: strings stripped, integers in decimals, booleans as "false" and "true".

    A float that is a whole number counts as the integer (what spreadsheets make of a column with gaps).
    Raises InputError, naming the line, for a label that is missing or empty or that names no class (3.5, a list).
    """
    return [_label_text(value, dataset, i, column) for i, value in enumerate(dataset.column(column))]


def class_names(labels: Iterable[str], source: str = "the data") -> tuple[str, ...]:
    """The classes in `labels`, sorted: integers by value ("9" before "10"), anything else by code point.

    Raises InputError when there are fewer than two.
    """
    counts = Counter(labels)
    if len(counts) == 1:
        ((name, count),) = counts.items()
        raise InputError(f"{source}: all {count} labels are {name!r}; a classifier needs at least two classes")
    if not counts:
        raise InputError(f"{source}: there are no labels")
    if all(_INTEGER.fullmatch(name) for name in counts):
        return tuple(sorted(counts, key=lambda name: (int(name), name)))
    return tuple(sorted(counts))


def class_numbers(labels: Sequence[str], names: Sequence[str], source: str = "the data") -> npt.NDArray[np.int32]:
    """The place of each label in `names`, int32 [N].

    Raises InputError for labels that `names` does not hold (training never saw them), with their counts.
    """
    number = {name: k for k, name in enumerate(names)}
    unseen = Counter(label for label in labels if label not in number)
    if unseen:
        told = ", ".join(f"{name!r} ({count})" for name, count in unseen.most_common(10))
        more = f" and {len(unseen) - 10} more" if len(unseen) > 10 else ""
        close = nearest(next(iter(unseen)), names, n=1)
        hint = f"; is {close[0]!r} meant?" if close else ""
        classes = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise InputError(f"{source} has labels that training never saw: {told}{more}{hint} The classes: {classes}")
    return np.array([number[label] for label in labels], np.int32)


def _label_text(value: Any, dataset: Dataset, i: int, column: str) -> str:
    if isinstance(value, str):
        text = value.strip()
        if text:
            return text
        raise InputError(f"{dataset.where(i)}: the label (column {column!r}) is empty")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if value is None or value != value:  # NaN is how tables write "missing"
        raise InputError(f"{dataset.where(i)}: the label (column {column!r}) is missing")
    raise InputError(
        f"{dataset.where(i)}: the label (column {column!r}) is {value!r}; a class is a string, an integer or a boolean"
    )
