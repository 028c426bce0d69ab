"""The layers every family is built from; `decoder_layers` has those of decoders. Linen is imported there and here.

All take `dtype`, the compute dtype; parameters are float32 unless loaded otherwise. Normalisation, softmax and logits
are computed in float32 whatever the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tl_jax.errors import InputError, did_you_mean
from tl_jax.stage import Stage

Module = nn.Module
compact = nn.compact
Dense = nn.Dense
Embed = nn.Embed
Conv = nn.Conv
normal = nn.initializers.normal


def _gelu(x: Array) -> Array:
    """GELU (Hendrycks & Gimpel 2016) by erf, as torch has it: half the time of the same by erfc, as JAX has it."""
    return 0.5 * x * (1 + jax.lax.erf(x * (0.5**0.5)))


# Names as in a Hugging Face config.json.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu_fast": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}
POOLINGS = ("cls", "mean", "last", "pooler")


def activation(name: str) -> Callable[[Array], Array]:
    """The activation a config names; raises `InputError` for one we do not know."""
    if name not in ACTIVATIONS:
        raise InputError(f"unknown activation {name!r}{did_you_mean(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _layer_norm(module: Any, x: Array) -> Array:
    """In float32, with the two-pass variance torch uses."""
    scale = module.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
    bias = module.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + module.epsilon)
    return (y * scale + bias).astype(module.dtype or x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016): `[…, D] -> […, D]`."""

    epsilon: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        return _layer_norm(self, x)  # the same in both modes; as a stage it is told which


class ResidualNorm(nn.Module):
    """Residual, then norm, as one named point: `(update, residual) -> norm(update + residual)`."""

    epsilon: float
    dtype: Any = None

    @nn.compact
    def __call__(self, update: Array, residual: Array) -> Array:
        return _layer_norm(self, update + residual)


_GOLDEN = 0x9E3779B9  # 2³²/φ: multiples of it visit u32 evenly


def fmix32(x: Array) -> Array:
    """The finaliser of MurmurHash3 on u32: each bit of the input flips each bit of the output half of the time."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _spread(noise: Array, n: int) -> Array:
    """u32 `[…] -> […, n]`: n draws from each noise."""
    return fmix32(noise[..., None] + jnp.arange(n, dtype=jnp.uint32) * jnp.uint32(_GOLDEN))


def noise_by_position(noise: Array | None, length: int) -> Array | None:
    """u32 `[B, 1] -> [B, length]`: of the one noise of an image, a noise for each of its positions; None stays None."""
    return None if noise is None else _spread(noise[:, 0], length)


def drop(module: nn.Module, x: Array, noise: Array | None, rate: float, bits: Callable[[Array], Array]) -> Array:
    """`x` with the share `rate` of it dropped, by the draws that `bits` makes of `noise`: u32, of the shape of `x`."""
    if noise is None:
        raise InputError("dropout in training draws from the state's `noise` (u32 per position), which is absent")
    seed = jax.random.bits(module.make_rng("dropout"))
    keep = bits(fmix32(noise ^ seed)) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) as a counter hash of (key, noise, feature).

    `x` is `[…, D]`, `noise` u32 `[…]` (or None in evaluation): what is dropped depends on the example and its position,
    never on the row, the padding or the batch they come in.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, noise: Array | None, train: bool) -> Array:
        if not train or self.rate == 0:
            return x
        return drop(self, x, noise, self.rate, lambda n: _spread(n, x.shape[-1]))


class AttentionCore(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017), the point where attention kernels and prefixes plug in.

    `q`, `k`, `v` are `[B, T, H, D]`; `segments` i32 `[B, T]`: positions attend within their own segment, padding (0)
    to padding; None: each to all. Softmax in float32; masked scores are `finfo.min`, so no row is NaN. Returns
    `[B, T, H, D]`.
    """

    dropout: float = 0.0

    @nn.compact
    def __call__(self, q: Array, k: Array, v: Array, segments: Array | None, noise: Array | None, train: bool) -> Array:
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) * (q.shape[-1] ** -0.5)
        if segments is not None:
            mask = segments[:, None, :, None] == segments[:, None, None, :]
            scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1)
        if train and self.dropout:
            heads = q.shape[2]
            weights = drop(self, weights, noise, self.dropout, lambda n: pairs(n, heads))
        return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


def pairs(noise: Array, heads: int) -> Array:
    """u32 `[B, T] -> [B, H, T, T]`: a draw for each head and pair of positions."""
    queries = jnp.moveaxis(_spread(noise, heads), -1, 1)
    return fmix32(queries[..., None] + noise[:, None, None, :] * jnp.uint32(_GOLDEN))


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases and an output projection: `hidden [B, T, D] -> [B, T, D]`.

    Without `qkv_bias` queries, keys and values have none. `segments` are those of `AttentionCore`.
    """

    heads: int
    attention_dropout: float = 0.0
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: Any = None
    qkv_bias: bool = True

    @nn.compact
    def __call__(self, hidden: Array, segments: Array | None, noise: Array | None, train: bool) -> Array:
        width = hidden.shape[-1]

        def project(name: str) -> Array:
            y = Dense(width, self.qkv_bias, self.dtype, kernel_init=normal(self.init_std), name=name)(hidden)
            return y.reshape(*y.shape[:-1], self.heads, width // self.heads)

        core = AttentionCore(self.attention_dropout, name="core")
        mixed = core(project("query"), project("key"), project("value"), segments, noise, train)
        mixed = mixed.reshape(*hidden.shape[:-1], width)
        out = Dense(width, dtype=self.dtype, kernel_init=normal(self.init_std), name="out")(mixed)
        return Dropout(self.dropout, name="dropout")(out, noise, train)


class Mlp(nn.Module):
    """Two dense layers with an activation between: `hidden [B, T, D] -> [B, T, D]`."""

    width: int
    activation: str
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array, noise: Array | None, train: bool) -> Array:
        up = Dense(self.width, dtype=self.dtype, kernel_init=normal(self.init_std), name="up")(hidden)
        up = activation(self.activation)(up)
        down = Dense(hidden.shape[-1], dtype=self.dtype, kernel_init=normal(self.init_std), name="down")(up)
        return Dropout(self.dropout, name="dropout")(down, noise, train)


class TextEmbeddings(nn.Module):
    """Sum of token, position and token-type embeddings, normalised: `hidden [B, T, D]`.

    Without `types` there are no token types. `first` is the row of position 0, where tables have rows in front of it
    that no token is given.
    """

    vocabulary: int
    width: int
    positions: int
    types: int = 0
    first: int = 0
    dropout: float = 0.0
    epsilon: float = 1e-12
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(
        self, tokens: Array, positions: Array, noise: Array | None, token_type: Array | None = None, *, train: bool
    ) -> Array:
        def table(rows: int, name: str) -> nn.Embed:
            return Embed(rows, self.width, dtype=self.dtype, embedding_init=normal(self.init_std), name=name)

        hidden = table(self.vocabulary, "token")(tokens)
        if self.types:
            hidden = hidden + table(self.types, "token_type")(token_type)
        hidden = hidden + table(self.positions, "position")(positions + self.first)
        hidden = LayerNorm(self.epsilon, self.dtype, name="norm")(hidden)
        return Dropout(self.dropout, name="dropout")(hidden, noise, train)


class EncoderLayer(nn.Module):
    """Attention and MLP, each followed by residual and norm (Vaswani et al. 2017): `hidden [B, T, D] -> [B, T, D]`."""

    heads: int
    mlp_width: int
    activation: str
    attention_dropout: float = 0.0  # of the weights
    out_dropout: float = 0.0  # of what attention gives
    mlp_dropout: float = 0.0
    epsilon: float = 1e-12
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array, segments: Array, noise: Array | None, train: bool) -> Array:
        attention = SelfAttention(
            self.heads, self.attention_dropout, self.out_dropout, self.init_std, self.dtype, name="attention"
        )
        mlp = Mlp(self.mlp_width, self.activation, self.mlp_dropout, self.init_std, self.dtype, name="mlp")
        update = attention(hidden, segments, noise, train)
        hidden = ResidualNorm(self.epsilon, self.dtype, name="attention_norm")(update, hidden)
        update = mlp(hidden, noise, train)
        return ResidualNorm(self.epsilon, self.dtype, name="mlp_norm")(update, hidden)


class Pooler(nn.Module):
    """One vector per example: `hidden [B, T, D]` and `segments [B, T]` to `pooled [N, D]`.

    Without `starts` each row is one example, from its first real position on; with it (i32 `[B, S]`) each row has S
    slots, slot s being the segment at position `starts[b, s]`, and N = B · S. `cls` is the first position, `last` the
    last, `mean` the average over the example's positions (as sentence-transformers computes it), `pooler` a dense layer
    over `cls`, with `dropout` before it and `activation` behind it: BERT's pooler, and what the classifiers of other
    families have below their last layer. Each example is pooled within its own row: a mesh that splits the rows has
    nothing to exchange.
    """

    pooling: str
    activation: str = "tanh"
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array, segments: Array, starts: Array | None, noise: Array | None, train: bool) -> Array:
        if starts is None:
            starts = jnp.argmax(segments > 0, axis=-1)[:, None]
        ids = jnp.take_along_axis(segments, starts, axis=1, mode="clip")
        mine = segments[:, None, :] == ids[:, :, None]  # [B, S, T]
        if self.pooling == "mean":
            weights = (mine & (segments > 0)[:, None, :]).astype(jnp.float32)
            total = jnp.einsum("bst,btd->bsd", weights, hidden.astype(jnp.float32))
            pooled = (total / jnp.maximum(weights.sum(-1, keepdims=True), 1e-9)).astype(hidden.dtype)
            return pooled.reshape(-1, hidden.shape[-1])
        if self.pooling == "last":
            starts = hidden.shape[1] - 1 - jnp.argmax(mine[:, :, ::-1], axis=-1)
        first = jnp.take_along_axis(hidden, starts[:, :, None], axis=1, mode="clip").reshape(-1, hidden.shape[-1])
        if self.pooling in ("cls", "last"):
            return first
        if noise is not None:
            noise = jnp.take_along_axis(noise, starts, axis=1, mode="clip").reshape(-1)
        first = Dropout(self.dropout, name="dropout")(first, noise, train)
        dense = Dense(hidden.shape[-1], dtype=self.dtype, kernel_init=normal(self.init_std), name="dense")
        return activation(self.activation)(dense(first))


class Head(nn.Module):
    """A linear classifier over `pooled [N, D]`, dropout before it: `logits` float32 `[N, labels]`."""

    labels: int
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, pooled: Array, noise: Array | None, starts: Array | None, train: bool) -> Array:
        kernel = self.param("kernel", normal(self.init_std), (pooled.shape[-1], self.labels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.labels,), jnp.float32)
        if noise is not None:
            noise = noise[:, 0] if starts is None else jnp.take_along_axis(noise, starts, axis=1).reshape(-1)
        pooled = Dropout(self.dropout, name="dropout")(pooled, noise, train)
        return pooled.astype(jnp.float32) @ kernel.astype(jnp.float32) + bias.astype(jnp.float32)


def pooler_stage(pooling: str, init_std: float = 0.02, activation: str = "tanh", dropout: float = 0.0) -> Stage:
    """The stage `pooler` of text encoders; `pooling` is one of `POOLINGS`, the rest is as in `Pooler`."""
    if pooling not in POOLINGS:
        raise InputError(f"unknown pooling {pooling!r}{did_you_mean(pooling, POOLINGS)}")
    module = Pooler(pooling, activation, dropout, init_std)
    return Stage("pooler", module, ("hidden", "segments", "starts", "noise"), ("pooled",))


def head_stage(labels: int, dropout: float = 0.0, init_std: float = 0.02) -> Stage:
    """The stage `head` of a classifier with that many labels."""
    return Stage("head", Head(labels, dropout, init_std), ("pooled", "noise", "starts"), ("logits",))
