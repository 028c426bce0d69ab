from __future__ import annotations

import numpy as np
import pytest

from tl_jax.data import Encoded
from tl_jax.data.encoded import micro_batches
from tl_jax.data.noise import position_noise
from tl_jax.errors import InputError

ROWS = [[101, 5, 102], [101, 102], [101, 7, 8, 9, 102]]
TYPES = [[0, 1, 1], [0, 1], [0, 0, 0, 1, 1]]


def test_padding_of_a_batch():
    examples = Encoded.of(ROWS, [2, 0, 1], token_type=TYPES, index=[10, 11, 12])
    batch = examples.pad(np.array([2, 0]), 8, rows=3, pad=99)
    assert batch["tokens"].tolist() == [
        [101, 7, 8, 9, 102, 99, 99, 99],
        [101, 5, 102, 99, 99, 99, 99, 99],
        [99] * 8,
    ]
    assert batch["mask"].sum(axis=1).tolist() == [5, 3, 0]
    assert batch["token_type"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0], [0] * 8]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 4, 0, 0, 0], [0, 1, 2, 0, 0, 0, 0, 0], [0] * 8]
    assert np.array_equal(batch["segments"], batch["mask"])
    assert batch["noise"][0, :5].tolist() == position_noise(np.array([12]), np.arange(5)).tolist()
    assert not batch["noise"][~batch["mask"]].any()
    assert batch["targets"].tolist() == [1, 2, 0]
    assert batch["weights"].tolist() == [1, 1, 0]
    assert batch["index"].tolist() == [12, 10, -1]
    assert {key: value.dtype.name for key, value in batch.items()} == {
        "tokens": "int32",
        "mask": "bool",
        "token_type": "int32",
        "positions": "int32",
        "segments": "int32",
        "noise": "uint32",
        "targets": "int32",
        "weights": "float32",
        "index": "int32",
    }


def test_what_is_left_out_is_zeros():
    batch = Encoded.of(ROWS).pad(np.array([0]), 3, rows=1)
    assert batch["targets"].tolist() == [0] and not batch["token_type"].any()


def test_targets_keep_their_kind_and_shape():
    assert Encoded.of(ROWS, np.array([1, 2, 3], np.int64)).targets.dtype == np.int32
    assert Encoded.of(ROWS, [0.5, 1, 2]).targets.dtype == np.float32
    batch = Encoded.of(ROWS, np.ones((3, 4))).pad(np.array([1]), 8, rows=2)
    assert batch["targets"].tolist() == [[1] * 4, [0] * 4]


def test_selected_examples_keep_their_index():
    examples = Encoded.of(ROWS, [2, 0, 1], token_type=TYPES).select([2, 1])
    assert examples.lengths.tolist() == [5, 2] and examples.index.tolist() == [2, 1]
    whole = Encoded.of(ROWS, [2, 0, 1], token_type=TYPES).pad(np.array([2, 1]), 8, rows=2)
    for key, value in examples.pad(np.array([0, 1]), 8, rows=2).items():
        assert np.array_equal(value, whole[key]), key
    assert len(examples.select([])) == 0


def test_micro_batches_keep_the_order_of_rows():
    batch = Encoded.of(ROWS).pad(np.array([2, 0, 1]), 8, rows=4)
    parts = micro_batches(batch, 2)
    assert parts["tokens"].shape == (2, 2, 8) and parts["weights"].shape == (2, 2)
    assert parts["index"].tolist() == [[2, 0], [1, -1]]


def test_bad_examples():
    with pytest.raises(InputError, match="example 1 has no tokens"):
        Encoded.of([[1], []])
    with pytest.raises(ValueError, match="2 examples, but 1 targets"):
        Encoded.of([[1], [2]], [0])
    with pytest.raises(ValueError, match="as long as tokens"):
        Encoded.of([[1], [2]], token_type=[[0], [0, 0]])
    with pytest.raises(ValueError, match="cannot be negative"):
        Encoded.of([[1]], index=[-1])


# -- targets of tokens ---------------------------------------------------------------------------------------------


def test_targets_of_tokens_lie_with_their_tokens(rng):
    rows = [rng.integers(3, 9, n) for n in (2, 4, 1)]
    wanted = [row + 100 for row in rows]
    examples = Encoded.of(rows, wanted, per_token=True)
    batch = examples.pad(np.asarray([2, 0]), 5, rows=3)
    for i, place in enumerate((2, 0)):
        length = len(rows[place])
        assert batch["targets"][i, :length].tolist() == wanted[place].tolist()
        assert (batch["targets"][i, length:] == -1).all()
    assert (batch["targets"][2] == -1).all() and batch["targets"].dtype == np.int32
    packed = examples.pack(np.asarray([[1, 2, -1], [0, -1, -1]]), 6)
    assert packed["targets"].tolist() == [[*wanted[1], *wanted[2], -1], [*wanted[0], -1, -1, -1, -1]]
    part = examples.select([2, 1])
    assert part.per_token and part.targets.tolist() == [*wanted[2], *wanted[1]]


def test_targets_of_tokens_must_be_as_many():
    with pytest.raises(ValueError, match="targets of tokens must be as long as tokens"):
        Encoded.of([[1, 2]], [[1]], per_token=True)
