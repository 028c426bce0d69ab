from __future__ import annotations

import jax
import numpy as np
import pytest
from flax.core import freeze
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.training.partition import align, combine, partition
from tl_jax.trees import by_path

HEAD = Group("head")
NAMES = st.sampled_from(["layers_0", "layers_1", "kernel", "bias", "scale"])
LEAVES = st.tuples(st.integers(0, 9), st.sampled_from([HEAD, FROZEN, Group("body", lr=0.1)]))
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=8)


def test_the_example_of_the_docstring() -> None:
    params = {"body": {"kernel": 1}, "head": {"kernel": 2}}
    trainable, frozen = partition(params, {"body": {"kernel": FROZEN}, "head": {"kernel": HEAD}})
    assert trainable == {"body": {"kernel": None}, "head": {"kernel": 2}}
    assert frozen == {"body": {"kernel": 1}, "head": {"kernel": None}}
    assert combine(trainable, frozen) == params


@given(TREES)
def test_combine_is_the_inverse_and_each_leaf_lies_in_one_half(pairs: object) -> None:
    is_pair = lambda node: isinstance(node, tuple)  # noqa: E731
    tree = jax.tree.map(lambda pair: pair[0], pairs, is_leaf=is_pair)
    labels = jax.tree.map(lambda pair: pair[1], pairs, is_leaf=is_pair)
    trainable, frozen = partition(tree, labels)
    assert combine(trainable, frozen) == tree
    assert by_path(trainable).keys() == {path for path, label in by_path(labels).items() if label is not FROZEN}
    assert by_path(frozen).keys() == {path for path, label in by_path(labels).items() if label is FROZEN}
    assert by_path(trainable, holes=True).keys() == by_path(tree).keys()


def test_holes_stay_holes_and_need_no_label() -> None:
    assert partition({"a": None, "b": 1}, {"a": None, "b": HEAD}) == ({"a": None, "b": 1}, {"a": None, "b": None})
    assert partition({"a": None, "b": 1}, {"a": FROZEN, "b": HEAD}) == ({"a": None, "b": 1}, {"a": None, "b": None})
    assert partition({"a": None, "b": 1}, {"b": FROZEN}) == ({"a": None, "b": None}, {"a": None, "b": 1})


def test_containers_may_differ_in_type() -> None:
    params = freeze({"params": {"kernel": np.ones(2), "bias": np.zeros(2)}})
    trainable, frozen = partition(params, {"params": {"kernel": HEAD, "bias": FROZEN}})
    assert type(trainable) is type(frozen) is type(params)
    assert trainable["params"]["bias"] is None and frozen["params"]["kernel"] is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"head": {"kernel": HEAD}}, "'head/bias' has no label; did you mean 'head/kernel'"),
        (
            {"head": {"kernel": HEAD, "bias": HEAD, "biass": HEAD}},
            "'head/biass' has a label but is no leaf of the tree; did you mean 'head/bias'",
        ),
        ({"head": {"kernel": HEAD, "bias": True}}, "'head/bias' must be a Group or FROZEN, not True"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        align(labels, {"head": {"kernel": 1, "bias": 2}})
