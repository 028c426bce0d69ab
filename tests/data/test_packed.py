from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_batches import LENGTHS, encoded, expected, random_lengths
from tl_jax.data import BucketedBatches, PackedBatches, PackedPasses, PassShape
from tl_jax.data.packing import best_fit

PER_POSITION = ("tokens", "positions", "noise", "token_type")


def seen(batch):
    """What a model is given for each real example, by its index, found as the head finds it: by row and start."""
    found = {}
    flat = batch["index"].ndim == 1
    parts = [batch] if flat else [{key: batch[key][i] for key in batch} for i in range(len(batch["index"]))]
    for one in parts:
        covered = np.zeros(one["tokens"].shape, int)
        slots = one["starts"].shape[1]
        for n, index in enumerate(one["index"]):
            row, start = n // slots, one["starts"][n // slots, n % slots]
            assert one["weights"][n] == (index >= 0)
            if index < 0:
                assert (start, one["targets"][n]) == (0, 0)
                continue
            mine = one["segments"][row] == one["segments"][row, start]
            where = np.flatnonzero(mine)
            assert np.array_equal(where, np.arange(start, start + len(where)))
            covered[row] += mine
            assert index not in found
            found[int(index)] = [
                one["tokens"][row, where].tolist(),
                [1] * len(where),
                *(one[key][row, where].tolist() for key in PER_POSITION[1:]),
                int(one["targets"][n]),
            ]
        assert np.array_equal(covered, one["mask"]) and np.array_equal(one["segments"] > 0, one["mask"])
        assert all(not one[key][~one["mask"]].any() for key in PER_POSITION)
    return found


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**64 - 1), st.integers(0, 3))
def test_each_epoch_gives_every_example_once_as_it_is_in_one_shape(lengths, rows, accumulate, seed, epoch):
    size = rows * accumulate
    batches = PackedBatches(encoded(lengths), size, seed, accumulate=accumulate)
    steps = [epoch * batches.steps_per_epoch + i for i in range(batches.steps_per_epoch)]
    drawn = [batches.batch(step) for step in steps]
    assert {batch["tokens"].shape for batch in drawn} == set(batches.shapes)
    parts = [seen(batch) for batch in drawn]
    assert sorted(map(len, parts)) == sorted(
        [size] * (len(lengths) // size) + [len(lengths) % size][: len(lengths) % size]
    )
    assert {i: value for part in parts for i, value in part.items()} == expected(lengths)


def test_a_batch_depends_on_seed_and_step_alone():
    examples = encoded(random_lengths(500))
    straight, other = PackedBatches(examples, 16, seed=3), PackedBatches(examples, 16, seed=4)
    in_order = [straight.batch(step) for step in range(70)]
    again = PackedBatches(examples, 16, seed=3)
    for step in np.random.default_rng(0).permutation(70):
        for key, value in again.batch(int(step)).items():
            assert np.array_equal(value, in_order[step][key]) and value.dtype == in_order[step][key].dtype
    first, second = ([batch["index"].tolist() for batch in in_order[i : i + 32]] for i in (0, 32))
    assert first != second and first != [other.batch(i)["index"].tolist() for i in range(32)]


def test_a_batch_has_the_bits_it_always_had():
    """A run is replayed from (seed, step), so these bits may not change."""
    batch = PackedBatches(encoded([1 + i % 40 for i in range(300)]), 8, seed=11).batch(70)
    found = hashlib.sha256(b"".join(batch[key].tobytes() for key in sorted(batch))).hexdigest()
    assert found == "22d40677b2f8a5fc7fb91bbdb8c1aac6906626e3e8e9b3a9e23059c3b342f117"


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(8, 100), st.integers(1, 4))
def test_a_pass_gives_every_example_once_as_it_is_in_one_shape(lengths, rows, width, divisor):
    passes = PackedPasses(encoded(lengths), rows, width, divisor=divisor)
    drawn = list(passes)
    assert {batch["tokens"].shape for batch in drawn} == set(passes.shapes) and len(passes.shapes) == 1
    assert passes.shapes[0][0] == -(-rows // divisor) * divisor
    assert len({batch["starts"].shape for batch in drawn}) == 1
    parts = [seen(batch) for batch in drawn]
    assert sum(map(len, parts)) == len(lengths)
    assert {i: value for part in parts for i, value in part.items()} == expected(lengths)
    masks = np.concatenate([batch["mask"].ravel() for batch in drawn])
    assert passes.padding == pytest.approx(1 - masks.mean(), abs=1e-12)


def test_passes_over_any_set_share_a_shape_but_for_long_texts_and_where_little_is_asked():
    shape = PassShape(8, (200,), packed=True)
    passes = [shape.over(encoded(random_lengths(n, seed=n)), 0) for n in (1, 301, 1000)]
    assert [one.shapes for one in passes] == [((8, 200),)] * 3
    assert len({batch["starts"].shape for one in passes for batch in one}) == 1
    assert shape.over(encoded([201]), 0).shapes == ((8, 208),)
    assert shape.over(encoded([5]), 0, least=True).shapes == ((1, 200),)
    assert shape.over(encoded([150] * 3), 0, least=True).shapes == ((4, 200),)
    assert shape.over(encoded([150] * 30), 0, least=True).shapes == ((8, 200),)
    plain = PassShape(8, (40,))
    assert plain.over(encoded([5]), 0).shapes == ((8, 40),)
    assert plain.over(encoded([5] * 3), 0, least=True).shapes == ((4, 40),)


def test_which_examples_meet_is_left_to_chance():
    """Examples of all lengths are in every batch, and any two of other lengths meet as often as others."""
    lengths = [10] * 32 + [20] * 32
    met = np.zeros((64, 64))
    for seed in range(200):
        batches = PackedBatches(encoded(lengths), 16, seed)
        for step in range(batches.steps_per_epoch):
            index = batches.batch(step)["index"]
            index = index[index >= 0]
            met[np.ix_(index, index)] += 1
            assert (index < 32).sum() == 8
    across = met[:32, 32:]  # 200 × 8 / 32 times each
    assert across.mean() == 50 and 5 < across.std() < 8  # sqrt(50 · 3/4) = 6.1
    same = met[:32, :32][~np.eye(32, dtype=bool)]
    assert abs(same.mean() - 200 * 7 / 31) < 1e-9 and 4 < same.std() < 8


def test_packed_and_bucketed_batches_cost_what_they_say():
    examples = encoded(random_lengths(701))
    packed, bucketed = PackedBatches(examples, 16, seed=0), BucketedBatches(examples, 16, seed=0)
    for batches in (packed, bucketed):
        drawn = [batches.batch(step) for step in range(batches.steps_per_epoch)]
        assert batches.padding == pytest.approx(
            1 - np.concatenate([b["mask"].ravel() for b in drawn]).mean(), abs=1e-12
        )
        shapes = [batch["tokens"].shape for batch in drawn]
        assert batches.cost == pytest.approx(sum(rows * width * (1 + width / 512) for rows, width in shapes))
    assert packed.cost < 0.9 * bucketed.cost


def test_accumulation_cuts_the_same_batches():
    examples = encoded(random_lengths(200))
    whole, cut = PackedBatches(examples, 12, seed=4), PackedBatches(examples, 12, seed=4, accumulate=3)
    for step in range(2 * whole.steps_per_epoch):
        assert seen(cut.batch(step)) == seen(whole.batch(step))
        assert len(cut.batch(step)["weights"]) == 3


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 12), st.data())
def test_a_smaller_data_set_shares_the_shape_where_it_fits(lengths, batch_size, data):
    whole = PackedBatches(encoded(lengths), batch_size, seed=0)
    few = data.draw(st.lists(st.sampled_from(lengths), min_size=1, max_size=20))
    batches = PackedBatches(encoded(few), batch_size, seed=0, like=whole)
    (height, width), (own_height, own_width) = whole.shapes[0], batches.shapes[0]
    assert own_width == width and own_height >= height and batches.lengths == whole.lengths
    if batches.steps_per_epoch == 1 and sum(few) <= width:
        assert own_height == height
    assert {len(seen(batches.batch(i))) for i in range(batches.steps_per_epoch)} <= {batch_size, len(few) % batch_size}
    longer = PackedBatches(encoded([width + 1]), batch_size, seed=0, like=whole)
    assert longer.shapes[0][1] > width


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60), st.integers(50, 120), st.none() | st.integers(1, 5))
def test_best_fit_fills_rows_well_and_none_too_full(lengths, width, slots):
    rows = best_fit(np.array(lengths, np.int64), width, slots)
    assert sorted(i for row in rows for i in row) == [i for i, length in enumerate(lengths) if length]
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert max(filled, default=0) <= width and all(len(row) <= (slots or 60) for row in rows)
    # The first example of a row fitted into none before it.
    open_rows = [i for i, row in enumerate(rows) if len(row) != slots]
    assert all(
        filled[before] + lengths[rows[i][0]] > width for i in range(len(rows)) for before in open_rows if before < i
    )


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 3), st.integers(2, 8))
def test_rows_for_a_mesh_hold_the_same_examples(lengths, rows, accumulate, divisor):
    given = encoded(lengths), rows * accumulate, 5
    alone = PackedBatches(*given, accumulate=accumulate)
    shared = PackedBatches(*given, accumulate=accumulate, divisor=divisor)
    assert shared.shapes[0][-2] % divisor == 0
    for step in range(alone.steps_per_epoch):
        assert seen(shared.batch(step)) == seen(alone.batch(step))
