from __future__ import annotations

from collections import Counter

import pytest

import tl_jax.data as data
from tl_jax.errors import InputError

TRAIN = [(f"text number {i}", "ab"[i % 2]) for i in range(100)]
OTHER = [("one more", "a"), ("and another", "b")]


def texts_of(part):
    return part.column("text")


def test_validation_is_held_out_by_hash_where_none_is_given():
    found = data.divide(data.open(TRAIN))
    held = data.holdout(data.open(TRAIN)["train"], "text", "label")
    assert found.labels == ("a", "b") and found.test is None
    assert texts_of(found.validation) == [TRAIN[i][0] for i in held.validation]
    assert len(found.train) + len(found.validation) == 100


def test_named_splits_are_taken_as_they_are():
    found = data.divide(data.open({"train": TRAIN, "dev": OTHER, "test": OTHER[::-1]}))
    assert [len(part) for part in (found.train, found.validation, found.test)] == [100, 2, 2]
    assert texts_of(found.validation) == texts_of(found.test)[::-1]


def test_eval_data_stands_before_the_test_split():
    splits = data.open({"train": TRAIN, "test": OTHER})
    assert len(data.divide(splits, data.open(OTHER[:1] * 3)).test) == 3
    assert texts_of(data.divide(splits, data.open({"train": TRAIN, "test": OTHER[:1]})).test) == ["one more"]


def test_shots_are_drawn_from_what_validation_leaves():
    found = data.divide(data.open(TRAIN), shots=4, seed=1)
    assert Counter(found.train.column("label")) == {"a": 4, "b": 4}
    assert not set(texts_of(found.train)) & set(texts_of(found.validation))
    assert len(found.validation) == len(data.divide(data.open(TRAIN)).validation)
    assert len(data.divide(data.open(TRAIN), fraction=0.1, seed=1).train) == pytest.approx(9, abs=1)


def test_the_split_to_train_on_can_be_named():
    splits = data.open({"train": TRAIN, "test": OTHER * 10})
    found = data.divide(splits, split="test")
    assert found.test is None and set(texts_of(found.train)) <= {text for text, _ in OTHER}
    with pytest.raises(InputError, match="validation split chooses the best checkpoint"):
        data.divide(data.open({"train": TRAIN, "dev": OTHER}), split="dev")
    with pytest.raises(InputError, match="has no split 'tset'; it has train, test"):
        data.divide(splits, split="tset")


def test_a_split_that_is_there_alone_is_trained_on_only_if_it_is_no_other():
    """As where a file beside it is called training.csv."""
    with pytest.raises(InputError, match="has only a split named test: --split test trains on it"):
        data.divide(data.open({"test": TRAIN}))
    assert data.divide(data.open({"test": TRAIN}), split="test").test is None
    with pytest.raises(InputError, match=r"^there is only a split named validation: the validation split chooses"):
        data.divide(data.open({"dev": TRAIN}))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_labels_that_training_never_saw(part):
    with pytest.raises(InputError, match=r"labels that training never saw: 'c' \(1\)"):
        data.divide(data.open({"train": TRAIN, part: [("x", "c")]}))


def test_one_class_only():
    with pytest.raises(InputError, match="all 5 labels are 'a'"):
        data.divide(data.open([(str(i), "a") for i in range(5)]))
