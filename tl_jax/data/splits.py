"""Which examples train: the held-out split by hash, k shots a class, a fraction of each class."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tl_jax.data.columns import texts
from tl_jax.data.dataset import Dataset
from tl_jax.data.labels import label_texts
from tl_jax.data.shuffling import check_seed, permutations, text_hash
from tl_jax.errors import InputError
from tl_jax.pictures import Picture


class Holdout(NamedTuple):
    """Indices of the examples to train and to validate on, ascending, int64; `notes` are sentences to print."""

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    notes: tuple[str, ...]


class Chosen(NamedTuple):
    """Indices of the chosen examples, ascending, int64; `notes` are sentences to print."""

    indices: npt.NDArray[np.int64]
    notes: tuple[str, ...]


def holdout(
    dataset: Dataset, text_column: str, label_column: str | None = None, *, images: Sequence[Picture] | None = None
) -> Holdout:
    """Hold out a tenth of the examples for validation, by their text alone; or by what is in their `images`.

    An example is held out when SHA-256(text) mod 10 is 0: equal texts stay together, and adding examples moves no
    other. Two exceptions, for small data, each with a note:
    - A class (all examples, without `label_column`) of which nothing would be left to train on gets back its text
      with the largest hash.
    - If nothing is held out then, the texts with the smallest hashes are, a tenth of them but at least one, passing
      over those that training cannot spare. Where it can spare none, `validation` is empty.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    what = "text" if images is None else "image"
    if images is None:
        for i, text in enumerate(texts(dataset, text_column)):
            groups[text_hash(text)].append(i)
    else:
        for i, image in enumerate(images):
            groups[int(image.digest, 16)].append(i)
    labels = [""] * len(dataset) if label_column is None else label_texts(dataset, label_column)
    left = Counter(labels)  # examples of each class that train
    held: set[int] = set()

    def hold(group: int) -> None:
        held.add(group)
        left.subtract(labels[i] for i in groups[group])

    def release(group: int) -> None:
        held.discard(group)
        left.update(labels[i] for i in groups[group])

    for group in groups:
        if group % 10 == 0:
            hold(group)
    rescued = []
    for name in sorted(left):
        if left[name] == 0:
            release(max(group for group in held if any(labels[i] == name for i in groups[group])))
            rescued.append(name)
    notes = []
    if rescued:
        who = "nothing" if label_column is None else f"no example of {_listed(map(repr, rescued))}"
        notes.append(f"held out by hash, {who} would have been left to train on; one {what} each stays")
    if not held:
        wanted = max(1, len(groups) // 10)
        for group in sorted(groups):
            needed = Counter(labels[i] for i in groups[group])
            if all(left[name] > count for name, count in needed.items()):
                hold(group)
            if len(held) == wanted:
                break
        if held:
            notes.append(f"of few {what}s none falls into the held-out tenth; the {len(held)} with the least hash do")
        else:
            notes.append("nothing can be held out without taking a class away from training: there is no validation")
    validation = sorted(i for group in held for i in groups[group])
    train = sorted(i for group in groups if group not in held for i in groups[group])
    return Holdout(np.array(train, np.int64), np.array(validation, np.int64), tuple(notes))


def shots(labels: Sequence[Hashable], k: int | str, seed: int) -> Chosen:
    """`k` examples of each class, drawn by `seed`; all of a class that has fewer, with a note that names it.

    Nested: the 8 shots of a seed are among its 16. What is drawn of one class does not depend on the others.
    Raises InputError unless `k` is a positive integer (or its decimals) and `seed` is valid.
    """
    count = _positive(k)
    orders = _orders(labels, seed)
    short = [f"{name!r} ({len(order)})" for name, order in orders.items() if len(order) < count]
    notes = (f"fewer than {count} examples, all of them used: {_listed(short)}",) if short else ()
    return _union((order[:count] for order in orders.values()), notes)


def fraction(labels: Sequence[Hashable], share: str | float, seed: int) -> Chosen:
    """`share` ("10%", "0.1" or 0.1) of each class, rounded half up but at least one example, drawn by `seed`.

    Nested like `shots`, and drawn in the same order. Raises InputError unless 0 < share <= 1 and `seed` is valid.
    """
    part = parse_fraction(share)
    orders = _orders(labels, seed)
    counts = {name: int(part * len(order) + 0.5) for name, order in orders.items()}
    raised = [repr(name) for name, count in counts.items() if count == 0]
    notes = (f"less than one example at {share}, one used: {_listed(raised)}",) if raised else ()
    return _union((order[: max(1, counts[name])] for name, order in orders.items()), notes)


def parse_fraction(share: str | float) -> float:
    """A share as a number: "10%" and "0.1" are 0.1. Raises InputError unless it is above 0 and at most 1."""
    wrong = InputError(f"the fraction {share!r} must be above 0 and at most 1: write 10% or 0.1")
    try:
        text = share.strip() if isinstance(share, str) else share
        part = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)
    except (TypeError, ValueError):
        raise wrong from None
    if isinstance(share, bool) or not 0 < part <= 1:  # NaN fails too
        raise wrong
    return part


def _positive(k: Any) -> int:
    try:
        count = int(k) if isinstance(k, str) else operator.index(k)
    except (TypeError, ValueError):
        count = 0
    if isinstance(k, bool) or count < 1:
        raise InputError(f"the number of shots must be a positive integer, not {k!r}")
    return count


def _orders(labels: Sequence[Hashable], seed: int) -> dict[Hashable, npt.NDArray[np.int64]]:
    """For each class the places of its examples in an order drawn by the seed and the class's name alone."""
    number = check_seed(seed)
    places: dict[Hashable, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        places[label].append(i)
    orders = {}
    for name, where in places.items():
        (order,) = permutations((number, text_hash(str(name)) % 2**64), len(where))
        orders[name] = np.array(where, np.int64)[order]
    return orders


def _union(parts: Any, notes: tuple[str, ...]) -> Chosen:
    return Chosen(np.sort(np.concatenate([np.empty(0, np.int64), *parts])), notes)


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
