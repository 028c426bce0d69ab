from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.data import Dataset, fraction, holdout, parse_fraction, shots
from tl_jax.errors import InputError


def in_tenth(text):
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10 == 0


HELD = [text for text in map(str, range(400)) if in_tenth(text)]
KEPT = [text for text in map(str, range(400)) if not in_tenth(text)]


def test_holdout_is_the_tenth_by_hash():
    texts = [str(i % 200) for i in range(400)]
    split = holdout(Dataset({"text": texts, "label": [i % 2 for i in range(400)]}), "text", "label")
    assert [texts[i] for i in split.validation] == [t for t in texts if in_tenth(t)]
    assert sorted([*split.train, *split.validation]) == list(range(400))
    assert split.notes == ()


def test_holdout_does_not_depend_on_the_other_examples():
    large = holdout(Dataset({"text": [str(i) for i in range(300)]}), "text").validation
    small = holdout(Dataset({"text": [str(i) for i in range(200)]}), "text").validation
    assert small.tolist() == [i for i in large if i < 200]


def test_a_class_that_would_vanish_keeps_one_text():
    texts = [*KEPT[:10], *HELD[:5]]
    labels = ["a", "b"] * 5 + ["rare", "rare", "a", "b", "a"]
    split = holdout(Dataset({"text": texts, "label": labels}), "text", "label")
    assert Counter(labels[i] for i in split.train) == {"a": 5, "b": 5, "rare": 1}
    assert len(split.validation) == 4
    assert "'rare'" in split.notes[0]


def test_when_none_falls_into_the_tenth_the_least_hashes_do():
    dataset = Dataset({"text": KEPT[:20], "label": ["a", "b"] * 10})
    split = holdout(dataset, "text", "label")
    assert len(split.validation) == 2 and len(split.train) == 18
    assert "with the least hash" in split.notes[0]
    least = sorted(KEPT[:20], key=lambda t: hashlib.sha256(t.encode()).digest())
    assert {KEPT[i] for i in split.validation} == set(least[:2])


@pytest.mark.parametrize("texts", [KEPT[:2], HELD[:2], ["same", "same"]])
def test_where_nothing_can_be_spared_there_is_no_validation(texts):
    split = holdout(Dataset({"text": texts, "label": ["a", "b"]}), "text", "label")
    assert split.validation.size == 0 and split.train.tolist() == [0, 1]
    assert "there is no validation" in split.notes[-1]


def test_without_labels_something_is_left_to_train_on():
    split = holdout(Dataset({"text": HELD[:3]}), "text")
    assert len(split.train) == 1 and len(split.validation) == 2 and split.notes


@given(st.lists(st.tuples(st.sampled_from([*KEPT[:6], *HELD[:6]]), st.sampled_from("abc")), min_size=1, max_size=30))
def test_holdout_laws(rows):
    texts, labels = [r[0] for r in rows], [r[1] for r in rows]
    split = holdout(Dataset({"text": texts, "label": labels}), "text", "label")
    assert sorted([*split.train, *split.validation]) == list(range(len(rows)))
    assert {labels[i] for i in split.train} == set(labels)
    assert not {texts[i] for i in split.train} & {texts[i] for i in split.validation}
    if {texts[i] for i in split.validation} != {t for t in texts if in_tenth(t)}:
        assert split.notes


LABELS = ["a"] * 30 + ["b"] * 20 + ["c"] * 3


def test_shots_are_stratified_seeded_and_nested():
    eight, sixteen = shots(LABELS, 8, seed=5), shots(LABELS, "16", seed=5)
    assert Counter(LABELS[i] for i in eight.indices) == {"a": 8, "b": 8, "c": 3}
    assert set(eight.indices) < set(sixteen.indices)
    assert eight.indices.tolist() == shots(LABELS, 8, seed=5).indices.tolist() == sorted(eight.indices)
    assert eight.indices.tolist() != shots(LABELS, 8, seed=6).indices.tolist()
    assert eight.notes == ("fewer than 8 examples, all of them used: 'c' (3)",)
    assert shots(LABELS, 3, seed=0).notes == ()


def test_what_is_drawn_of_a_class_does_not_depend_on_the_others():
    alone = shots(LABELS[:30], 4, seed=1).indices
    assert alone.tolist() == [i for i in shots(LABELS, 4, seed=1).indices if i < 30]


@given(st.integers(0, 2**64 - 1), st.floats(0.001, 1), st.floats(0.001, 1))
def test_fractions_are_nested_and_keep_every_class(seed, a, b):
    small, large = (fraction(LABELS, share, seed).indices for share in sorted((a, b)))
    assert set(small) <= set(large)
    assert {LABELS[i] for i in small} == {"a", "b", "c"}


def test_fraction_counts():
    chosen = fraction(LABELS, "10%", seed=0)
    assert Counter(LABELS[i] for i in chosen.indices) == {"a": 3, "b": 2, "c": 1}
    assert "one used: 'c'" in chosen.notes[0]
    assert fraction(LABELS, 1, seed=0).indices.tolist() == list(range(len(LABELS)))


@pytest.mark.parametrize("share", [0, -0.1, 1.5, "10", "x", "0%", "101%", "%", float("nan"), None, True])
def test_bad_fractions(share):
    with pytest.raises(InputError, match=r"write 10% or 0\.1"):
        fraction(LABELS, share, seed=0)


def test_parse_fraction():
    assert [parse_fraction(s) for s in ("10%", " 0.1", 0.1, "100 %", 1)] == [0.1, 0.1, 0.1, 1.0, 1.0]


@pytest.mark.parametrize("k", [0, -1, 1.5, "x", None, True, "0"])
def test_bad_shots(k):
    with pytest.raises(InputError, match="shots must be a positive integer"):
        shots(LABELS, k, seed=0)
