from __future__ import annotations

import sys
from subprocess import run

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data import BucketedBatches, BucketedPasses, Encoded
from tl_jax.data.noise import position_noise
from tl_jax.errors import InputError

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=150)


def encoded(lengths):
    """Example i has the tokens i * 1000 + 1, i * 1000 + 2, … and the target i."""
    return Encoded.of([np.arange(1, n + 1) + 1000 * i for i, n in enumerate(lengths)], np.arange(len(lengths)))


def random_lengths(n, seed=0):
    return (np.random.default_rng(seed).gamma(3, 8, n) + 1).astype(int).tolist()


def seen(batch):
    """What a model is given for each real example, by its index; checks that padding is padding."""
    flat = {key: value.reshape(-1, *value.shape[batch["index"].ndim :]) for key, value in batch.items()}
    found = {}
    for row, index in enumerate(flat["index"]):
        mask = flat["mask"][row]
        assert flat["weights"][row] == (index >= 0)
        assert np.array_equal(np.sort(mask)[::-1], mask)
        for key in ("tokens", "segments", "positions", "noise", "token_type"):
            assert not flat[key][row][~mask].any(), key
        if index < 0:
            assert not mask.any() and flat["targets"][row] == 0
            continue
        keys = ("tokens", "segments", "positions", "noise", "token_type")
        assert index not in found
        found[int(index)] = [flat[key][row][mask].tolist() for key in keys] + [int(flat["targets"][row])]
    return found


def epoch_of(batches, epoch=0):
    found = {}
    for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
        found |= (one := seen(batches.batch(step)))
        assert len(one) > 0
    return found


def expected(lengths):
    """What law 7 asks of every example, whatever the batch: a function of the example alone."""
    return {
        i: [
            list(range(1000 * i + 1, 1000 * i + n + 1)),
            [1] * n,
            list(range(n)),
            position_noise(np.array([i]), np.arange(n)).tolist(),
            [0] * n,
            i,
        ]
        for i, n in enumerate(lengths)
    }


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**64 - 1), st.integers(0, 3))
def test_each_epoch_gives_every_example_once_as_it_is(lengths, rows, accumulate, seed, epoch):
    batches = BucketedBatches(encoded(lengths), rows * accumulate, seed, accumulate=accumulate)
    assert batches.steps_per_epoch == -(-len(lengths) // (rows * accumulate))
    assert sum(len(seen(batches.batch(s))) for s in range(batches.steps_per_epoch)) == len(lengths)
    assert epoch_of(batches, epoch) == expected(lengths)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 40))
def test_evaluation_gives_every_example_once_as_it_is(lengths, batch_size):
    batches = BucketedPasses(encoded(lengths), batch_size)
    found = [seen(batch) for batch in batches]
    assert len(found) == len(batches) == -(-len(lengths) // batch_size)
    assert sum(map(len, found)) == len(lengths)
    assert {i: value for one in found for i, value in one.items()} == expected(lengths)
    assert len(batches.shapes) <= 4
    assert {batch["tokens"].shape for batch in batches} == set(batches.shapes)


def test_a_batch_depends_on_seed_and_step_alone():
    examples = encoded(random_lengths(500))
    straight = BucketedBatches(examples, 16, seed=3)
    in_order = [straight.batch(step) for step in range(100)]
    shuffled = BucketedBatches(examples, 16, seed=3)
    for step in np.random.default_rng(0).permutation(100):
        for key, value in shuffled.batch(int(step)).items():
            assert np.array_equal(value, in_order[step][key]) and value.dtype == in_order[step][key].dtype


def test_another_process_gives_the_same_bits():
    code = (
        "import numpy as np, hashlib\n"
        "from tl_jax.data import BucketedBatches, Encoded\n"
        "examples = Encoded.of([np.arange(1, 2 + i % 40) for i in range(300)])\n"
        "batch = BucketedBatches(examples, 8, seed=11).batch(70)\n"
        "print(hashlib.sha256(b''.join(batch[k].tobytes() for k in sorted(batch))).hexdigest())\n"
    )
    prints = {run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    # Recorded once: a run is replayed from (seed, step), so these bits may not change.
    assert prints == {"2fb23db21ba5181a67920fc938d5c8dd29d19d56d498baace3f918b10abb1034\n"}


def test_epochs_and_seeds_differ():
    examples = encoded(random_lengths(200))
    batches, other = BucketedBatches(examples, 16, seed=0), BucketedBatches(examples, 16, seed=1)
    first = [batches.batch(step)["index"].tolist() for step in range(batches.steps_per_epoch)]
    second = [batches.batch(step + batches.steps_per_epoch)["index"].tolist() for step in range(len(first))]
    third = [other.batch(step)["index"].tolist() for step in range(len(first))]
    assert first != second and first != third


def test_the_shuffle_is_global_and_short_and_long_batches_mix():
    examples = encoded(random_lengths(2000))
    batches = BucketedBatches(examples, 20, seed=0)
    steps = range(batches.steps_per_epoch)
    lengths = [batches.batch(step)["tokens"].shape[1] for step in steps]
    assert len(set(lengths[:15])) > 1 and lengths != sorted(lengths)
    means = [batches.batch(step)["index"].mean() for step in steps]
    assert 900 < np.mean(means) < 1100 and 60 < np.std(means) < 250  # 129 = 577 / sqrt(20) for draws without order


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 12), st.randoms(use_true_random=False))
def test_shapes_are_few_and_fixed_by_the_lengths(lengths, batch_size, random):
    batches = BucketedBatches(encoded(lengths), batch_size, seed=0)
    assert 1 <= len(batches.shapes) <= 4
    random.shuffle(lengths)
    for seed in (1, 2):
        other = BucketedBatches(encoded(lengths), batch_size, seed)
        assert other.shapes == batches.shapes and other.padding == batches.padding
        for epoch in (0, 1):
            steps = range(epoch * other.steps_per_epoch, (epoch + 1) * other.steps_per_epoch)
            assert {other.batch(step)["tokens"].shape for step in steps} == set(batches.shapes)


def test_padding_is_the_share_that_is_padding():
    examples = encoded(random_lengths(701))
    train, evaluation = BucketedBatches(examples, 16, seed=0, accumulate=2), BucketedPasses(examples, 16)
    for batches, all_of in (
        (train, [train.batch(step) for step in range(train.steps_per_epoch)]),
        (evaluation, list(evaluation)),
    ):
        masks = np.concatenate([batch["mask"].ravel() for batch in all_of])
        assert batches.padding == pytest.approx(1 - masks.mean(), abs=1e-12)
    longest = 8 * -(-max(examples.lengths) // 8)
    unsorted = 1 - sum(examples.lengths) / (16 * train.steps_per_epoch * longest)
    assert len(train.shapes) > 1 and train.padding < 0.6 * unsorted


def test_accumulation_cuts_the_same_batches():
    examples = encoded(random_lengths(200))
    whole, cut = BucketedBatches(examples, 12, seed=4), BucketedBatches(examples, 12, seed=4, accumulate=3)
    assert cut.shapes == tuple((3, 4, length) for _, length in whole.shapes)
    for step in range(2 * whole.steps_per_epoch):
        assert seen(cut.batch(step)) == seen(whole.batch(step))
        assert cut.batch(step)["weights"].shape == (3, 4)


def test_the_padding_token():
    batches = BucketedBatches(encoded([3]), 2, seed=0, pad=9)
    assert batches.batch(0)["tokens"].tolist() == [[1, 2, 3, 9, 9, 9, 9, 9], [9] * 8]
    assert BucketedPasses(encoded([3]), 2, pad=9).batch(0)["tokens"].tolist() == [[1, 2, 3, 9, 9, 9, 9, 9], [9] * 8]


def test_evaluation_uses_lengths_that_are_compiled_already():
    examples = encoded([3, 10, 20, 40])
    assert BucketedPasses(examples, 1, lengths=(48, 16)).shapes == ((1, 16), (1, 48))
    assert BucketedPasses(examples, 1, lengths=(16,)).shapes == ((1, 16), (1, 40))


@pytest.mark.parametrize(
    ("batch_size", "seed", "accumulate", "message"),
    [
        (0, 0, 1, "batch size must be a positive integer, not 0"),
        (2.5, 0, 1, "batch size must be a positive integer, not 2.5"),
        (8, 0, 0, "micro-batches .--accumulate. must be a positive integer"),
        (30, 0, 4, "30 examples cannot be cut into 4 equal micro-batches; the nearest batch size is 28 or 32"),
        (3, 0, 4, "the nearest batch size is 4"),
        (8, -1, 1, "seed must be an integer"),
    ],
)
def test_bad_sizes(batch_size, seed, accumulate, message):
    with pytest.raises(InputError, match=message):
        BucketedBatches(encoded([1, 2]), batch_size, seed, accumulate=accumulate)


def test_no_examples_and_no_such_step():
    with pytest.raises(InputError, match="no examples"):
        BucketedBatches(Encoded.of([]), 8, 0)
    with pytest.raises(InputError, match="no examples"):
        BucketedPasses(Encoded.of([]), 8)
    with pytest.raises(IndexError):
        BucketedBatches(encoded([1]), 8, 0).batch(-1)


def test_data_imports_no_jax():
    code = "import sys, tl_jax.data, tl_jax.metrics; sys.exit('jax' in sys.modules or 'transformers' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
