"""Convolutional layers against torch's: batch norm in both modes, its statistics, poolings and shortcuts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import PARITY, relative
from tl_jax.errors import InputError
from tl_jax.models.conv_layers import AveragePooler, BatchNorm, ResidualBlock, Stem


def variables(rng: np.random.Generator, channels: int, dtype=np.float32):
    draw = {"scale": rng.normal(1, 0.3, channels), "bias": rng.normal(size=channels)}
    kept = {"mean": rng.normal(size=channels), "var": rng.uniform(0.5, 2, channels)}
    cast = lambda tree: {name: jnp.asarray(leaf, dtype) for name, leaf in tree.items()}  # noqa: E731
    return {"params": cast(draw), "batch_stats": cast(kept)}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("shape", "momentum", "epsilon"), [((2, 3, 1, 4), 0.1, 1e-5), ((7, 4), 0.37, 1e-3)])
def test_batch_norm_is_torchs(shape, momentum, epsilon, train, rng):
    import torch

    channels, given = shape[-1], variables(rng, shape[-1])
    x = rng.normal(3, 2, shape).astype(np.float32)
    reference = (torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d)(channels, epsilon, momentum)
    theirs = {
        "weight": given["params"]["scale"],
        "bias": given["params"]["bias"],
        "running_mean": given["batch_stats"]["mean"],
        "running_var": given["batch_stats"]["var"],
    }
    reference.load_state_dict({name: torch.tensor(np.array(leaf)) for name, leaf in theirs.items()}, strict=False)
    out = reference.train(train)(torch.tensor(np.moveaxis(x, -1, 1).copy())).detach().numpy()
    ours, changed = BatchNorm(epsilon, momentum).apply(given, x, train, mutable=["batch_stats"])
    assert relative(ours, np.moveaxis(out, 1, -1)) <= PARITY
    after = {"mean": reference.running_mean, "var": reference.running_var}
    for name, leaf in after.items():
        assert relative(changed["batch_stats"][name], leaf.numpy()) <= PARITY
        moved = not np.array_equal(changed["batch_stats"][name], given["batch_stats"][name])
        assert moved == train


def test_batch_norm_is_as_exact_far_from_zero(rng):
    """A mean of a hundred spreads is rounded by some 1e-5 of a spread, which output and gradient do not show."""
    given = variables(rng, 5)
    x, weights = (rng.normal(mean, 1, (8, 9, 7, 5)).astype(np.float32) for mean in (100, 1))

    def loss(params, x):
        out = BatchNorm().apply({**given, "params": params}, x, True, mutable=["batch_stats"])[0]
        return (out * weights).sum(), out

    (params, to_x), out = jax.grad(loss, (0, 1), has_aux=True)(given["params"], x)
    y, w = x.astype(np.float64), weights.astype(np.float64)
    scale, bias = (np.asarray(given["params"][name], np.float64) for name in ("scale", "bias"))
    mean = lambda values: values.mean((0, 1, 2))  # noqa: E731
    y = y - mean(y)
    root = np.sqrt(mean(y**2) + 1e-5)
    y = y / root
    exact = {"bias": w.sum((0, 1, 2)), "scale": (w * y).sum((0, 1, 2))}
    assert relative(out, y * scale + bias) < 1e-6
    assert relative(to_x, (w - mean(w) - y * mean(w * y)) * scale / root) < 1e-6
    assert all(relative(params[name], exact[name]) < 1e-5 for name in exact)


def test_statistics_start_at_zero_and_one_and_are_not_moved_by_init(rng):
    made = BatchNorm().init(jax.random.key(0), rng.normal(size=(5, 3)).astype(np.float32), True)
    assert jax.tree.map(np.ndarray.tolist, jax.tree.map(np.asarray, made)) == {
        "params": {"scale": [1, 1, 1], "bias": [0, 0, 0]},
        "batch_stats": {"mean": [0, 0, 0], "var": [1, 1, 1]},
    }


def test_statistics_keep_their_dtype_and_are_computed_in_float32(rng):
    """Squares of 300 overflow float16."""
    x = jnp.asarray(rng.normal(300, 20, (64, 3)), jnp.float16)
    given = variables(rng, 3, np.float16)
    out, changed = BatchNorm().apply(given, x, True, mutable=["batch_stats"])
    assert out.dtype == jnp.float16 and np.isfinite(out).all()
    assert {leaf.dtype for leaf in changed["batch_stats"].values()} == {np.dtype(np.float16)}
    exact = 0.9 * given["batch_stats"]["mean"].astype(np.float32) + 0.1 * np.asarray(x, np.float32).mean(0)
    assert relative(changed["batch_stats"]["mean"], exact) < 1e-3
    assert BatchNorm(dtype=jnp.bfloat16).apply(given, x, False).dtype == jnp.bfloat16


def test_one_value_a_channel_has_no_variance(rng):
    given, x = variables(rng, 3), np.ones((1, 1, 1, 3), np.float32)
    with pytest.raises(InputError, match=r"two values a channel or more, and \[1, 1, 1, 3\] has 1"):
        BatchNorm().apply(given, x, True, mutable=["batch_stats"])
    assert np.isfinite(BatchNorm().apply(given, x, False)).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (7, 8), (9, 4)])
def test_the_largest_of_each_three_by_three(height, width, rng):
    """The activation is none, so that what is pooled has both signs."""
    import torch

    x = rng.normal(size=(2, height, width, 3)).astype(np.float32)
    pooled, plain = (Stem(4, kernel=1, stride=1, pool=pool, activation="linear") for pool in (True, False))
    given = plain.init(jax.random.key(0), x, False)
    before = np.moveaxis(np.array(plain.apply(given, x, False)), 3, 1)
    theirs = torch.nn.functional.max_pool2d(torch.tensor(before), 3, 2, 1).numpy()
    np.testing.assert_array_equal(np.moveaxis(np.asarray(pooled.apply(given, x, False)), 3, 1), theirs)


def test_an_average_of_all_pixels_is_taken_in_float32(rng):
    x = jnp.asarray(rng.normal(1, 0.1, (2, 40, 41, 3)), jnp.float16)
    out = AveragePooler().apply({}, x, False)
    assert out.dtype == jnp.float16 and out.shape == (2, 3)
    assert relative(out, np.asarray(x, np.float64).mean((1, 2))) < 1e-3


def test_a_shortcut_of_padding_has_zeros_on_both_sides(rng):
    """With kernels of zero the block is its shortcut."""
    x = rng.uniform(0.5, 1, (2, 5, 4, 3)).astype(np.float32)
    block = ResidualBlock(((7, 3, 2), (7, 3, 1)), "padding")
    given = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(0), x, False))
    out = np.asarray(block.apply(given, x, False))
    assert out.shape == (2, 3, 2, 7)
    np.testing.assert_array_equal(out[..., 2:5], x[:, ::2, ::2])
    assert not out[..., [0, 1, 5, 6]].any()


def test_first_values_are_he_s_by_fan_out(seed):
    """A standard deviation of √(2 / (9 · 64)) over 9 · 16 · 64 numbers, within six of its own errors."""
    block = ResidualBlock(((64, 3, 1),), "projection")
    kernel = block.init(jax.random.key(seed), np.zeros((1, 2, 2, 16), np.float32), False)["params"]["conv_1"]["kernel"]
    assert kernel.shape == (3, 3, 16, 64)
    assert abs(float(kernel.std()) / (2 / (9 * 64)) ** 0.5 - 1) < 6 / (2 * kernel.size) ** 0.5
