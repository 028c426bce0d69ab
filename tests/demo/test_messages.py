"""Checks on the demo messages: counts, duplicates, and how far wording is shared between messages.

Run with ``-s`` to print the measured figures quoted in ``demo/README.md``.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "demo"
MESSAGES = DEMO / "messages"
INTENTS = {
    "cancel_order",
    "change_account_details",
    "late_delivery",
    "login_problem",
    "missing_item",
    "refund_status",
    "return_item",
    "wrong_charge",
}
PER_INTENT = {"train": 40, "test": 20}
MAX_FOUR_GRAM_SHARE = 0.005  # measured: 0.22 %
MAX_NEAR_COPY = 0.5  # measured: at most 40 %


def read(split: str) -> list[tuple[str, str]]:
    with open(MESSAGES / f"{split}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, strict=True))
    assert rows[0] == ["text", "label"]
    assert all(len(row) == 2 for row in rows)
    return [(text, label) for text, label in rows[1:]]


def words(text: str) -> list[str]:
    """Case-folded words without punctuation: "Don't pre-order" gives "dont", "pre", "order"."""
    return re.findall(r"\w+", text.casefold().replace("'", ""))


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    tokens = words(text)
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def nearest(texts: list[str], others: list[str]) -> tuple[float, str, str]:
    """The largest share of a text's distinct 3-grams that one other text also has, with the two texts."""
    grams = {text: set(ngrams(text, 3)) for text in texts + others}
    return max(
        (len(grams[text] & grams[other]) / len(grams[text]), text, other)
        for text in texts
        for other in others
        if text != other
    )


@pytest.fixture(scope="module")
def train() -> list[tuple[str, str]]:
    return read("train")


@pytest.fixture(scope="module")
def held_out() -> list[tuple[str, str]]:
    return read("test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_counts(split: str) -> None:
    counts = Counter(label for _, label in read(split))
    print(f"\n{split}: {sum(counts.values())} messages, {dict(sorted(counts.items()))}")
    assert counts == dict.fromkeys(INTENTS, PER_INTENT[split])


def test_message_form(train: list[tuple[str, str]], held_out: list[tuple[str, str]]) -> None:
    lengths = sorted(len(words(text)) for text, _ in train + held_out)
    print(f"\nwords per message: min {lengths[0]}, median {lengths[len(lengths) // 2]}, max {lengths[-1]}")
    assert lengths[0] >= 4
    for text, _ in train + held_out:
        assert text == " ".join(text.split())


def test_no_duplicates(train: list[tuple[str, str]], held_out: list[tuple[str, str]]) -> None:
    counts = Counter(" ".join(words(text)) for text, _ in train + held_out)
    assert [text for text, count in counts.items() if count > 1] == []


def test_four_gram_overlap(train: list[tuple[str, str]], held_out: list[tuple[str, str]]) -> None:
    seen = {gram for text, _ in train for gram in ngrams(text, 4)}
    grams = [gram for text, _ in held_out for gram in ngrams(text, 4)]
    shared = [gram for gram in grams if gram in seen]
    share = len(shared) / len(grams)
    print(f"\n4-grams of test messages also in train messages: {len(shared)} of {len(grams)} ({share:.2%})")
    for gram, count in Counter(shared).most_common():
        print(f"  {count} x {' '.join(gram)}")
    assert share <= MAX_FOUR_GRAM_SHARE


def test_no_near_copies_across_splits(train: list[tuple[str, str]], held_out: list[tuple[str, str]]) -> None:
    share, text, other = nearest([text for text, _ in held_out], [text for text, _ in train])
    print(f"\nlargest share of a test message's 3-grams in one train message: {share:.1%}\n  {text}\n  {other}")
    assert share <= MAX_NEAR_COPY


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_near_copies_within(split: str) -> None:
    texts = [text for text, _ in read(split)]
    share, text, other = nearest(texts, texts)
    print(
        f"\nlargest share of a {split} message's 3-grams in another {split} message: {share:.1%}\n  {text}\n  {other}"
    )
    assert share <= MAX_NEAR_COPY
