from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.data.shuffling import check_seed, permutations, text_hash
from tl_jax.errors import InputError

KEYS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@given(key=KEYS, n=st.integers(0, 50), m=st.integers(0, 50))
def test_permutations_of_their_key(key, n, m):
    first, second = permutations(key, n, m)
    assert sorted(first) == list(range(n)) and sorted(second) == list(range(m))
    assert np.array_equal(permutations(key, n)[0], first)


def test_the_stream_stays_what_it_was():
    # A run is replayed from its seed: another order here would break every recorded run.
    assert permutations((0, 0), 8)[0].tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert permutations((7, 3), 8)[0].tolist() == [2, 5, 7, 3, 0, 6, 4, 1]


def test_the_generator_is_philox_4x64_10():
    # The known answer of Random123 for counter 0 and key 0; numpy counts up before it draws.
    raw = np.random.Philox(key=np.zeros(2, np.uint64), counter=2**256 - 1).random_raw(4)
    assert [int(word) for word in raw] == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


def test_another_epoch_or_seed_is_another_order():
    orders = [permutations(key, 100)[0].tolist() for key in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", None, True])
def test_bad_seeds(seed):
    with pytest.raises(InputError, match="seed must be an integer"):
        check_seed(seed)
    assert check_seed(np.int32(3)) == 3


def test_text_hash_is_sha256():
    assert text_hash("abc") == 0xBA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD
