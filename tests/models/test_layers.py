"""Layers: dropout by counter, attention, norms and poolings, against definitions written out in numpy."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import relative
from tl_jax.errors import InputError
from tl_jax.models import layers
from tl_jax.models.layers import AttentionCore, Dropout, Head, LayerNorm, Mlp, Pooler, ResidualNorm, fmix32

SIGMA = 6.0  # bounds on what is drawn: one false alarm in 5e8 comparisons


def noise_of(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Hashes, as the data gives, or plain counters: dropout must not rely on its noise being random."""
    if kind == "counters":
        return np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    return rng.integers(0, 2**32, shape, np.uint32)


def kept(rate: float, noise, width: int, key: int = 0) -> np.ndarray:
    """Which elements dropout keeps, `[…, width]`."""

    @jax.jit
    def drop(noise, key):
        ones = jnp.ones((*noise.shape, width))
        return Dropout(rate).apply({}, ones, noise, train=True, rngs={"dropout": key})

    out = drop(noise, jax.random.key(key))
    np.testing.assert_array_equal(np.unique(out), np.float32([0, 1 / (1 - rate)]))
    return np.asarray(out) > 0


def kept_pairs(rate: float, noise, heads: int, key: int = 0, segments=None) -> np.ndarray:
    """Which attention weights dropout keeps, `[B, H, T, T]`: queries and keys of zero attend evenly, and values that
    are the identity show the weights themselves."""
    rows, length = noise.shape

    @jax.jit
    def attend(segments, noise, key):
        zeros, eye = jnp.zeros((rows, length, heads, 2)), jnp.eye(length)[None, :, None]
        values = jnp.broadcast_to(eye, (rows, length, heads, length))
        rngs = {"dropout": key}
        return AttentionCore(rate).apply({}, zeros, zeros, values, segments, noise, train=True, rngs=rngs)

    segments = np.ones((rows, length), np.int32) if segments is None else segments
    return np.moveaxis(np.asarray(attend(segments, noise, jax.random.key(key))) > 0, 2, 1)


def assert_uncorrelated(columns: np.ndarray) -> None:
    """No two columns of `[N, n]` booleans agree or disagree more often than chance allows."""
    n = len(columns)
    correlation = np.corrcoef(columns.T.astype(float))
    off_diagonal = correlation[~np.eye(columns.shape[1], dtype=bool)]
    assert np.abs(off_diagonal).max() < SIGMA / np.sqrt(n)


# -- the hash -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0x00000000, 0x00000000),
        (0x00000001, 0x514E28B7),
        (0x00000002, 0x30F4C306),
        (0x12345678, 0xE37CD1BC),
        (0xDEADBEEF, 0x0DE5C6A9),
        (0xFFFFFFFF, 0x81F16F39),
    ],
)
def test_fmix32_is_murmur3_s_finaliser(x, expected):
    out = fmix32(jnp.uint32(x))
    assert (int(out), out.dtype) == (expected, jnp.uint32)


def test_fmix32_is_a_bijection_that_mixes(rng):
    x = rng.integers(0, 2**32, 20_000, np.uint32)
    out = np.asarray(fmix32(jnp.asarray(x)))
    assert len(np.unique(out)) == len(np.unique(x))
    for bit in range(0, 32, 5):
        flipped = out ^ np.asarray(fmix32(jnp.asarray(x ^ np.uint32(1 << bit))))
        share = np.unpackbits(flipped.view(np.uint8)).mean()
        assert abs(share - 0.5) < 0.02


# -- dropout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hashes", "counters"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_honoured(rate, kind, rng, seed):
    keep = kept(rate, noise_of(kind, rng, (64, 16)), 128, seed)
    spread = np.sqrt(rate * (1 - rate))
    assert abs(keep.mean() - (1 - rate)) < SIGMA * spread / np.sqrt(keep.size)
    assert np.abs(keep.mean((0, 1)) - (1 - rate)).max() < SIGMA * spread / np.sqrt(64 * 16)  # each feature
    assert np.abs(keep.mean(-1) - (1 - rate)).max() < SIGMA * spread / np.sqrt(128) + 1e-9  # each position


def test_what_is_kept_is_scaled_and_what_is_dropped_is_zero(rng):
    x = rng.normal(size=(3, 5, 8)).astype(np.float32)
    noise = noise_of("hashes", rng, (3, 5))
    out = np.asarray(Dropout(0.25).apply({}, x, noise, train=True, rngs={"dropout": jax.random.key(0)}))
    keep = kept(0.25, noise, 8)
    np.testing.assert_array_equal(out, np.where(keep, x / np.float32(0.75), 0))


def test_evaluation_and_rate_zero_are_the_identity(rng):
    x = rng.normal(size=(3, 5, 8)).astype(np.float32)
    assert Dropout(0.25).apply({}, x, None, train=False) is x
    assert Dropout(0.0).apply({}, x, None, train=True) is x


def test_dropout_without_noise_says_so(rng):
    with pytest.raises(InputError, match="`noise`"):
        Dropout(0.5).apply({}, jnp.ones((2, 3)), None, train=True, rngs={"dropout": jax.random.key(0)})


@pytest.mark.parametrize("kind", ["hashes", "counters"])
def test_dropout_depends_on_noise_not_on_place(kind, rng, seed):
    """Another row, more padding, a smaller batch, a packed row: each position keeps its bits."""
    noise = noise_of(kind, rng, (4, 6))
    keep = kept(0.5, noise, 8, seed)
    order = rng.permutation(4)
    np.testing.assert_array_equal(kept(0.5, noise[order], 8, seed), keep[order])
    np.testing.assert_array_equal(kept(0.5, np.pad(noise, ((0, 3), (0, 5))), 8, seed)[:4, :6], keep)
    np.testing.assert_array_equal(kept(0.5, noise[1:2, :4], 8, seed), keep[1:2, :4])
    np.testing.assert_array_equal(kept(0.5, noise.reshape(1, 24), 8, seed).reshape(keep.shape), keep)
    np.testing.assert_array_equal(kept(0.5, noise, 16, seed)[..., :8], keep)  # nor on the width


def test_dropout_is_the_same_under_jit_and_vmap(rng, seed):
    noise, x = noise_of("hashes", rng, (4, 6)), jnp.ones((4, 6, 8))
    key = jax.random.key(seed)

    def drop(x, noise):
        return Dropout(0.5).apply({}, x, noise, train=True, rngs={"dropout": key})

    np.testing.assert_array_equal(jax.jit(drop)(x, noise), drop(x, noise))
    np.testing.assert_array_equal(jax.vmap(drop)(x, jnp.asarray(noise)), drop(x, noise))


@pytest.mark.parametrize("kind", ["hashes", "counters"])
def test_features_positions_and_keys_are_uncorrelated(kind, rng, seed):
    noise = noise_of(kind, rng, (64, 64))
    keep = kept(0.5, noise, 48, seed)
    assert_uncorrelated(keep.reshape(-1, 48))  # features
    assert_uncorrelated(keep.reshape(64, 64 * 48).T)  # rows
    assert_uncorrelated(np.moveaxis(keep, 1, -1).reshape(-1, 64))  # positions
    other = kept(0.5, noise, 48, seed + 1)
    assert_uncorrelated(np.stack([keep.ravel(), other.ravel()], -1))  # keys
    assert_uncorrelated(np.stack([keep[..., :-1].ravel(), keep[..., 1:].ravel(), other[..., :-1].ravel()], -1))


@pytest.mark.parametrize("kind", ["hashes", "counters"])
def test_runs_of_eight_features_are_evenly_spread(kind, rng, seed):
    """Chi-square over the 256 patterns that eight neighbours can make: no joint structure, either."""
    keep = kept(0.5, noise_of(kind, rng, (64, 64)), 48, seed)
    for patterns in (keep.reshape(-1, 8), np.moveaxis(keep, 1, -1).reshape(-1, 8)):
        counts = np.bincount(np.packbits(patterns, axis=-1)[:, 0], minlength=256)
        expected = len(patterns) / 256
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert abs(statistic - 255) < SIGMA * np.sqrt(2 * 255)


def test_modules_draw_apart(rng, seed):
    """The dropouts of one MLP and one attention share noise and key, and differ by their names."""

    class Two(layers.Module):
        @layers.compact
        def __call__(self, x, noise, train):
            return Dropout(0.5, name="first")(x, noise, train), Dropout(0.5, name="second")(x, noise, train)

    noise, x = noise_of("hashes", rng, (64, 64)), jnp.ones((64, 64, 8))
    first, second = Two().apply({}, x, jnp.asarray(noise), train=True, rngs={"dropout": jax.random.key(seed)})
    assert_uncorrelated(np.stack([np.asarray(first).ravel() > 0, np.asarray(second).ravel() > 0], -1))


# -- attention dropout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hashes", "counters"])
def test_attention_dropout_keeps_its_rate_and_draws_apart(kind, rng, seed):
    noise = noise_of(kind, rng, (32, 16))
    keep = kept_pairs(0.3, noise, 4, seed)
    assert abs(keep.mean() - 0.7) < SIGMA * np.sqrt(0.21 / keep.size)
    assert_uncorrelated(np.moveaxis(keep, 1, -1).reshape(-1, 4))  # heads
    assert_uncorrelated(np.moveaxis(keep, 2, -1).reshape(-1, 16))  # queries
    assert_uncorrelated(keep.reshape(-1, 16))  # keys
    assert_uncorrelated(keep.reshape(32, -1).T)  # rows
    above = np.triu_indices(16, 1)
    forth, back = keep[:, :, above[0], above[1]], keep[:, :, above[1], above[0]]
    assert_uncorrelated(np.stack([forth.ravel(), back.ravel()], -1))  # (query, key) and (key, query)
    other = kept_pairs(0.3, noise, 4, seed + 1)
    assert_uncorrelated(np.stack([keep.ravel(), other.ravel()], -1))


def test_attention_dropout_depends_on_noise_not_on_place(rng, seed):
    noise = noise_of("hashes", rng, (4, 6))
    keep = kept_pairs(0.5, noise, 2, seed)
    order = rng.permutation(4)
    np.testing.assert_array_equal(kept_pairs(0.5, noise[order], 2, seed), keep[order])
    np.testing.assert_array_equal(kept_pairs(0.5, np.pad(noise, ((0, 1), (0, 3))), 2, seed)[:4, :, :6, :6], keep)
    segments = np.asarray([[1] * 6 + [2] * 6])
    packed = kept_pairs(0.5, noise[:2].reshape(1, 12), 2, seed, segments)
    np.testing.assert_array_equal(packed[0, :, :6, :6], keep[0])
    np.testing.assert_array_equal(packed[0, :, 6:, 6:], keep[1])
    assert not packed[0, :, :6, 6:].any()


def test_attention_dropout_is_the_same_under_jit_and_vmap(rng, seed):
    q, k, v = rng.normal(size=(3, 4, 6, 2, 3)).astype(np.float32)
    noise, segments = noise_of("hashes", rng, (4, 6)), np.ones((4, 6), np.int32)
    key = jax.random.key(seed)

    def attend(q, k, v, segments, noise):
        return AttentionCore(0.5).apply({}, q, k, v, segments, noise, train=True, rngs={"dropout": key})

    eager = np.asarray(attend(q, k, v, segments, jnp.asarray(noise)))
    assert relative(jax.jit(attend)(q, k, v, segments, noise), eager) < 1e-6
    alone = jax.vmap(lambda *a: attend(*(x[None] for x in a))[0])
    assert relative(alone(q, k, v, segments, jnp.asarray(noise)), eager) < 1e-6


# -- attention ----------------------------------------------------------------------------------------------------


def attend_in_numpy(q, k, v, segments) -> np.ndarray:
    """softmax(q kᵀ / √d) v in float64, one row, head and segment at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(v.shape)
    for row, head in np.ndindex(q.shape[0], q.shape[2]):
        for segment in np.unique(segments[row]):
            at = segments[row] == segment
            scores = q[row, at, head] @ k[row, at, head].T / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[row, at, head] = weights / weights.sum(-1, keepdims=True) @ v[row, at, head]
    return out


@pytest.mark.parametrize(
    "segments",
    [
        [[1, 1, 1, 1, 1, 1]],
        [[1, 1, 1, 1, 0, 0]],
        [[1, 1, 2, 2, 2, 0]],
        [[1, 2, 1, 2, 0, 3]],
        [[0, 0, 0, 0, 0, 0]],
        [[1, 1, 1, 0, 0, 0], [7, 7, 7, 7, 9, 9]],
    ],
)
def test_positions_attend_within_their_segment(segments, rng):
    segments = np.asarray(segments, np.int32)
    q, k, v = rng.normal(0, 2, size=(3, len(segments), 6, 2, 3)).astype(np.float32)
    out = AttentionCore().apply({}, q, k, v, segments, None, train=False)
    assert relative(out, attend_in_numpy(q, k, v, segments)) < 1e-5


def test_packed_examples_attend_as_they_do_alone(rng):
    q, k, v = rng.normal(size=(3, 1, 6, 2, 3)).astype(np.float32)
    core = AttentionCore()
    packed = core.apply({}, q, k, v, np.asarray([[1, 1, 1, 1, 2, 2]]), None, train=False)
    for at in (slice(0, 4), slice(4, 6)):
        alone = core.apply({}, q[:, at], k[:, at], v[:, at], np.ones_like(q[:, at, 0, 0], np.int32), None, train=False)
        assert relative(packed[:, at], alone) < 1e-6


def test_large_scores_neither_overflow_nor_leak(rng):
    q, k, v = rng.normal(0, 1e4, size=(3, 1, 6, 2, 3)).astype(np.float32)
    segments = np.asarray([[1, 1, 1, 2, 2, 0]])
    out = AttentionCore().apply({}, q, k, v, segments, None, train=False)
    assert relative(out, attend_in_numpy(q, k, v, segments)) < 1e-5


def test_softmax_is_float32_under_bfloat16(rng):
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in rng.normal(size=(3, 1, 6, 2, 4)))
    segments = jnp.ones((1, 6), jnp.int32)
    jaxpr = jax.make_jaxpr(lambda *a: AttentionCore().apply({}, *a, segments, None, train=False))(q, k, v)
    assert "exp" in {eqn.primitive.name for eqn in jaxpr.eqns}
    assert all(eqn.outvars[0].aval.dtype == jnp.float32 for eqn in jaxpr.eqns if eqn.primitive.name == "exp")
    assert jaxpr.out_avals[0].dtype == jnp.bfloat16


# -- norms --------------------------------------------------------------------------------------------------------


def norm_in_numpy(x, scale, bias, epsilon) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


@pytest.mark.parametrize(("epsilon", "shift"), [(1e-12, 0), (1e-5, 0), (1e-5, 100), (0.1, -3)])
def test_layer_norm_is_its_definition(epsilon, shift, rng):
    x = (rng.normal(size=(3, 5, 7)) + shift).astype(np.float32)
    params = {"scale": rng.normal(size=7), "bias": rng.normal(size=7)}
    out = LayerNorm(epsilon).apply({"params": params}, x)
    assert relative(out, norm_in_numpy(x, params["scale"], params["bias"], epsilon)) < 3e-6 * max(1, abs(shift) / 10)


def test_layer_norm_is_torch_s(rng):
    import torch

    x, scale, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 5, 7), 7, 7))
    weight, shift = torch.tensor(scale), torch.tensor(bias)
    reference = torch.nn.functional.layer_norm(torch.tensor(x), (7,), weight, shift, 1e-5)
    out = LayerNorm(1e-5).apply({"params": {"scale": scale, "bias": bias}}, x)
    assert relative(out, reference.numpy()) < 1e-6


def test_residual_norm_normalises_the_sum(rng):
    update, residual = rng.normal(size=(2, 3, 5, 7)).astype(np.float32)
    params = {"params": {"scale": rng.normal(size=7), "bias": rng.normal(size=7)}}
    out = ResidualNorm(1e-5).apply(params, update, residual)
    np.testing.assert_array_equal(out, LayerNorm(1e-5).apply(params, update + residual))


def test_norms_compute_in_float32_and_give_the_compute_dtype(rng):
    x = (rng.normal(size=(3, 5, 7)) + 30).astype(jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(7), "bias": jnp.zeros(7)}}
    out = LayerNorm(1e-5, jnp.bfloat16).apply(params, x)
    assert out.dtype == jnp.bfloat16
    assert relative(out, norm_in_numpy(x, 1, 0, 1e-5)) < 2**-8  # one rounding, of the result
    assert LayerNorm(1e-5).apply(params, x).dtype == jnp.bfloat16
    assert LayerNorm(1e-5, jnp.float32).apply(params, x).dtype == jnp.float32


# -- activations --------------------------------------------------------------------------------------------------


def test_activations_are_transformers(rng):
    import torch
    from transformers.activations import ACT2FN

    x = np.concatenate([rng.normal(0, 3, 50), [0.0, -30.0, 30.0]]).astype(np.float32)
    shared = [name for name in layers.ACTIVATIONS if name in ACT2FN]
    assert len(shared) == len(layers.ACTIVATIONS)
    for name in shared:
        assert relative(layers.activation(name)(jnp.asarray(x)), ACT2FN[name](torch.tensor(x)).numpy()) < 1e-6, name


def test_an_unknown_activation_names_the_nearest():
    with pytest.raises(InputError, match="unknown activation 'gelu_nwe'; did you mean 'gelu_new'"):
        layers.activation("gelu_nwe")


def test_the_mlp_is_two_dense_layers(rng):
    mlp, x = Mlp(5, "relu"), rng.normal(size=(2, 3, 4)).astype(np.float32)
    up, down = rng.normal(size=(4, 5)), rng.normal(size=(5, 4))
    params = {"up": {"kernel": up, "bias": np.full(5, 0.1)}, "down": {"kernel": down, "bias": np.full(4, -0.2)}}
    out = mlp.apply({"params": params}, x, None, train=False)
    assert relative(out, np.maximum(x @ up + 0.1, 0) @ down - 0.2) < 1e-6


# -- poolings -----------------------------------------------------------------------------------------------------

SEGMENTS = np.asarray([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], np.int32)


def pool(pooling, hidden, segments, starts=None, params=None):
    return np.asarray(Pooler(pooling).apply({"params": params or {}}, hidden, segments, starts, None, train=False))


def pool_in_numpy(pooling, hidden, segments, params):
    real = [row[at > 0] for row, at in zip(hidden, segments, strict=True)]
    if pooling == "mean":
        return np.stack([row.mean(0) for row in real])
    if pooling == "last":
        return np.stack([row[-1] for row in real])
    first = np.stack([row[0] for row in real])
    return first if pooling == "cls" else np.tanh(first @ params["dense"]["kernel"] + params["dense"]["bias"])


@pytest.fixture
def dense(rng):
    return {"dense": {"kernel": rng.normal(size=(4, 4)).astype(np.float32), "bias": rng.normal(size=4)}}


@pytest.mark.parametrize("pooling", layers.POOLINGS)
def test_a_pooling_is_its_definition(pooling, dense, rng):
    hidden = rng.normal(size=(3, 5, 4)).astype(np.float32)
    params = dense if pooling == "pooler" else {}
    expected = pool_in_numpy(pooling, hidden, SEGMENTS, dense)
    assert relative(pool(pooling, hidden, SEGMENTS, params=params), expected) < 1e-6
    left = SEGMENTS[:, ::-1]  # padding on the left
    assert relative(pool(pooling, hidden, left, params=params), pool_in_numpy(pooling, hidden, left, dense)) < 1e-6


@pytest.mark.parametrize("pooling", layers.POOLINGS)
def test_packed_rows_pool_as_unpacked_ones(pooling, dense, rng):
    """Three examples of lengths 5, 2 and 3: the last two share a row, with padding behind them."""
    hidden = rng.normal(size=(3, 5, 4)).astype(np.float32)
    params = dense if pooling == "pooler" else {}
    packed = np.zeros((2, 7, 4), np.float32)
    segments = np.zeros((2, 7), np.int32)
    packed[0, :5], segments[0, :5] = hidden[0], 1
    packed[1, :2], segments[1, :2] = hidden[1, :2], 1
    packed[1, 2:5], segments[1, 2:5] = hidden[2, :3], 2
    packed[segments == 0] = 1e3  # padding must not be seen
    starts = np.asarray([[0, 0], [0, 2]])
    out = pool(pooling, packed, segments, starts, params)[[0, 2, 3]]
    expected = pool(pooling, hidden, SEGMENTS, params=params)
    if pooling == "mean":
        assert relative(out, expected) < 1e-6
    else:
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("pooling", layers.POOLINGS)
def test_rows_of_pure_padding_are_finite(pooling, dense, rng):
    hidden = rng.normal(size=(2, 5, 4)).astype(np.float32)
    params = dense if pooling == "pooler" else {}
    alone = pool(pooling, hidden, np.zeros((2, 5), np.int32), params=params)
    assert np.isfinite(alone).all()
    assert pooling != "mean" or not alone.any()  # the mean of no position is zero
    segments = np.asarray([[1, 1, 0, 0, 0], [0] * 5])
    assert np.isfinite(pool(pooling, hidden, segments, np.asarray([[0, 4], [0, 0]]), params)).all()


def test_the_dense_pooling_drops_what_it_reads(rng):
    """As the classifiers that have it do; the same of an example wherever it lies."""
    hidden = rng.normal(1, 0.1, size=(2, 5, 40)).astype(np.float32)
    noise = rng.integers(0, 2**32, (2, 5), np.uint32)
    params = {"params": {"dense": {"kernel": np.eye(40, dtype=np.float32), "bias": np.zeros(40, np.float32)}}}
    pooler, key = Pooler("pooler", "relu", dropout=0.5), {"dropout": jax.random.key(0)}
    run = partial(pooler.apply, params, train=True, rngs=key)
    first = np.asarray(run(hidden, np.ones((2, 5), np.int32), None, noise))
    kept = first > 0
    assert 0.2 < kept.mean() < 0.8 and relative(first, np.where(kept, 2 * hidden[:, 0], 0)) < 1e-6
    row, segments = np.concatenate(hidden)[None], np.repeat([1, 2], 5)[None]
    packed = run(row, segments, np.asarray([[0, 5]]), noise.reshape(1, 10))
    np.testing.assert_array_equal(packed, first)
    assert relative(pooler.apply(params, hidden, SEGMENTS[:2], None, noise, train=False), hidden[:, 0]) < 1e-6


def test_an_unknown_pooling_names_the_choices():
    with pytest.raises(InputError, match="unknown pooling 'maen'; did you mean 'mean'"):
        layers.pooler_stage("maen")


# -- the head -----------------------------------------------------------------------------------------------------


def test_the_head_is_linear_and_float32(rng):
    pooled, kernel, bias = rng.normal(size=(3, 4)), rng.normal(size=(4, 2)), rng.normal(size=2)
    params = {"params": {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}}
    out = Head(2, 0.5).apply(params, jnp.float32(pooled), None, None, train=False)
    assert relative(out, pooled @ kernel + bias) < 1e-6
    low = Head(2, dtype=jnp.bfloat16).apply(params, jnp.bfloat16(pooled), None, None, train=False)
    assert low.dtype == jnp.float32
    assert relative(low, np.asarray(jnp.bfloat16(pooled), np.float64) @ kernel + bias) < 1e-6


def test_the_head_s_dropout_follows_the_example(rng, seed):
    """Packed or not, an example's dropout is that of its first position."""
    params = {"params": {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}}
    noise, pooled = rng.integers(0, 2**32, (3, 4), np.uint32), jnp.ones((3, 8))

    def drop(noise, starts):
        key = jax.random.key(seed)
        return Head(8, 0.5).apply(params, pooled, noise, starts, train=True, rngs={"dropout": key})

    alone = drop(jnp.asarray(noise), None)
    assert 0 < (alone == 0).mean() < 1
    packed = drop(jnp.asarray(noise.reshape(1, 12)), np.asarray([[0, 4, 8]]))
    np.testing.assert_array_equal(packed, alone)
    np.testing.assert_array_equal(drop(jnp.asarray(noise[:, :1]), None), alone)
