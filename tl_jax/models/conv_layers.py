"""The layers of convolutional nets. Images and feature maps are `[B, H, W, C]`, kernels HWIO.

As in `layers`, all take `dtype`, the compute dtype, and normalisation is computed in float32 whatever that is.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tl_jax.errors import InputError
from tl_jax.models.layers import activation
from tl_jax.trees import STATISTICS

SHORTCUTS = ("identity", "projection", "padding")


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) as torch computes it: `[…, C] -> […, C]`, channel by channel.

    In evaluation it normalises by the statistics in `batch_stats`, `mean` and `var`. In training it normalises by the
    batch's own mean and biased variance, and moves the statistics by `momentum` towards the batch's mean and *unbiased*
    variance: `new = (1 - momentum) · old + momentum · batch`. They keep their dtype. Raises `InputError` in training on
    one value a channel, which has no variance.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean = self.variable(STATISTICS, "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable(STATISTICS, "var", jnp.ones, channels, jnp.float32)
        y = x.astype(jnp.float32)
        if train:
            count = math.prod(x.shape[:-1])
            if count < 2:
                raise InputError(
                    f"batch norm in training needs two values a channel or more, and {list(x.shape)} has {count}: "
                    "give more examples or larger images"
                )
            axes = tuple(range(x.ndim - 1))
            centre = y.mean(axes)
            y = y - centre
            # The mean is off by its rounding, which is much beside a small spread. Subtract what that has left, too;
            # it is zero but for rounding, and so is its gradient.
            rest = jax.lax.stop_gradient(y.mean(axes))
            centre, y = centre + rest, y - rest
            spread = jnp.square(y).mean(axes)
            self._move(mean, centre)
            self._move(var, spread * (count / (count - 1)))
        else:
            y = y - mean.value.astype(jnp.float32)
            spread = var.value.astype(jnp.float32)
        y = y * jax.lax.rsqrt(spread + self.epsilon)
        return (y * scale + bias).astype(self.dtype or x.dtype)

    def _move(self, statistic: Any, batch: Array) -> None:
        if self.is_initializing():
            return
        old = statistic.value
        moved = (1 - self.momentum) * old.astype(jnp.float32) + self.momentum * batch
        statistic.value = moved.astype(old.dtype)


def convolution(features: int, kernel: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    """A square convolution without bias, padded by half its kernel on every side: `[B, ⌈H/stride⌉, ⌈W/stride⌉, C]`.

    First values are those of He et al. 2015 (arXiv 1502.01852) by fan-out, as transformers and torchvision have them.
    """
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=((kernel // 2, kernel // 2),) * 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        name=name,
    )


class Stem(nn.Module):
    """Convolution, norm, activation and, with `pool`, the largest of each 3 × 3 at stride 2: `image -> hidden`."""

    features: int
    kernel: int = 7
    stride: int = 2
    pool: bool = True
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        hidden = convolution(self.features, self.kernel, self.stride, self.dtype, "conv")(image)
        hidden = BatchNorm(dtype=self.dtype, name="norm")(hidden, train)
        hidden = activation(self.activation)(hidden)
        return nn.max_pool(hidden, (3, 3), (2, 2), ((1, 1), (1, 1))) if self.pool else hidden


class Projection(nn.Module):
    """A shortcut that changes width or resolution by a 1 × 1 convolution and a norm (He et al. 2015, option B)."""

    features: int
    stride: int
    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array, train: bool) -> Array:
        hidden = convolution(self.features, 1, self.stride, self.dtype, "conv")(hidden)
        return BatchNorm(dtype=self.dtype, name="norm")(hidden, train)


class ResidualBlock(nn.Module):
    """Convolutions, each with its norm and ReLU between them, added to a shortcut (He et al. 2015, arXiv 1512.03385).

    `hidden [B, H, W, C] -> [B, ⌈H/s⌉, ⌈W/s⌉, features]`, s the product of the strides. `convolutions` are (features,
    kernel, stride). `shortcut` is one of `SHORTCUTS`: what came in; `projection`, see there; or `padding`, every s-th
    pixel with channels of zeros on both sides (option A, which has no parameters). `activation` follows the sum.
    """

    convolutions: tuple[tuple[int, int, int], ...]
    shortcut: str = "identity"
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array, train: bool) -> Array:
        update = hidden
        for i, (features, kernel, stride) in enumerate(self.convolutions, 1):
            update = update if i == 1 else jax.nn.relu(update)
            update = convolution(features, kernel, stride, self.dtype, f"conv_{i}")(update)
            update = BatchNorm(dtype=self.dtype, name=f"norm_{i}")(update, train)
        features, stride = update.shape[-1], math.prod(stride for _, _, stride in self.convolutions)
        if self.shortcut == "projection":
            hidden = Projection(features, stride, self.dtype, name="shortcut")(hidden, train)
        elif self.shortcut == "padding":
            hidden = _padded(hidden[:, ::stride, ::stride], features)
        return activation(self.activation)(update + hidden)


def _padded(hidden: Array, features: int) -> Array:
    """With channels of zeros around those there are, half of them on each side."""
    missing = features - hidden.shape[-1]
    return jnp.pad(hidden, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


class AveragePooler(nn.Module):
    """The mean over all pixels, in float32: `hidden [B, H, W, C] -> pooled [B, C]`."""

    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array, train: bool) -> Array:
        return hidden.astype(jnp.float32).mean((1, 2)).astype(self.dtype or hidden.dtype)
