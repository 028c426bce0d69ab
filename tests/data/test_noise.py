from __future__ import annotations

import numpy as np

from tl_jax.data.noise import position_noise


def reference(index, position):
    """The same in plain Python integers."""

    def mix(h):
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) % 2**32
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) % 2**32
        return h ^ (h >> 16)

    seed = mix((index * 0x9E3779B1 + 0x7F4A7C15) % 2**32)
    return mix(seed ^ ((position * 0x85EBCA77 + 0x165667B1) % 2**32))


def test_matches_plain_integers():
    index, position = np.array([[0], [1], [7], [2**31 - 1]], np.int32), np.array([[0, 1, 511]])
    found = position_noise(index, position)
    assert found.dtype == np.uint32
    assert found.tolist() == [[reference(int(i), int(p)) for p in position[0]] for i in index[:, 0]]


def test_bits_are_balanced_and_values_spread():
    found = position_noise(np.arange(2000)[:, None], np.arange(100)[None, :])
    ones = [(found >> np.uint32(bit) & np.uint32(1)).mean() for bit in range(32)]
    assert max(abs(p - 0.5) for p in ones) < 0.005  # 200,000 draws: 4.5 standard deviations
    assert len(np.unique(found)) > 200_000 - 20  # 4.7 collisions are expected
    rows, columns = found[:-1].ravel(), found[1:].ravel()  # neighbours share no more than chance
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.01
    assert abs(np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1]) < 0.01


def test_positions_of_an_example_never_share_a_value():
    assert len(np.unique(position_noise(np.array(12345), np.arange(100_000)))) == 100_000
