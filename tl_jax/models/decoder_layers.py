"""The layers decoders are built from: RMS norm, causal attention with grouped heads and a cache, gated MLP, LM head.

As in `layers`, all take `dtype`, the compute dtype; norms, softmax and logits are computed in float32.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tl_jax.models.layers import Dense, Embed, activation, drop, normal, pairs
from tl_jax.models.rotary import Rotary, rotate

EVERYWHERE = 2**30  # a window that no text is longer than


class RMSNorm(nn.Module):
    """Root mean square layer normalisation (Zhang & Sennrich 2019): `[…, D] -> […, D]`, a scale and no bias."""

    epsilon: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * scale).astype(self.dtype or x.dtype)


class TokenEmbeddings(nn.Module):
    """Token embeddings alone, positions being rotary: `tokens [B, T] -> hidden [B, T, D]`."""

    vocabulary: int
    width: int
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Array, train: bool) -> Array:
        table = Embed(self.vocabulary, self.width, dtype=self.dtype, embedding_init=normal(self.init_std), name="token")
        embedded: Array = table(tokens)
        return embedded


class GroupedCore(nn.Module):
    """Scaled dot-product attention of which several query heads share a key head (Ainslie et al. 2023).

    `q` is `[B, Q, H, D]`, `k` and `v` `[B, K, G, D]`, H a multiple of G; `mask` bool `[B, Q, K]` says which keys a
    query sees. Softmax in float32; masked scores are `finfo.min`, so no row is NaN. Returns `[B, Q, H, D]`.
    """

    dropout: float = 0.0

    @nn.compact
    def __call__(self, q: Array, k: Array, v: Array, mask: Array, noise: Array | None, train: bool) -> Array:
        rows, length, heads, width = q.shape
        groups = k.shape[2]
        q = q.reshape(rows, length, groups, heads // groups, width)
        scores = jnp.einsum("bqgnd,bkgd->bgnqk", q, k).astype(jnp.float32) * (width**-0.5)
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min), axis=-1)
        if train and self.dropout:
            shape = weights.shape
            weights = drop(self, weights, noise, self.dropout, lambda n: pairs(n, heads).reshape(shape))
        mixed = jnp.einsum("bgnqk,bkgd->bqgnd", weights.astype(v.dtype), v)
        return mixed.reshape(rows, length, heads, width)


class CausalAttention(nn.Module):
    """Causal self-attention with rotary positions: `hidden [B, T, D] -> [B, T, D]`.

    A token sees those of its own segment whose `positions` are at most its own and less than `window` below, wherever
    in the row they lie: rows may be padded on either side, or hold several examples. `rotates` is 1, or 0 for a layer
    without positions.

    Where the collection `cache` is mutable, what was seen is kept there: the first call makes a cache of the keys it
    sees (or starts from an empty one, see `tl_jax.generation.empty_cache`), later ones see all that is in it and add
    theirs. A cache that has no room left gives NaN.
    """

    heads: int
    groups: int  # heads of keys and values
    width: int  # of a head
    rotary: Rotary
    query_key_norm: bool = False
    bias: bool = False
    out_bias: bool = False
    dropout: float = 0.0  # of the weights
    epsilon: float = 1e-6
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        hidden: Array,
        positions: Array,
        segments: Array,
        noise: Array | None,
        train: bool,
        window: float = EVERYWHERE,
        rotates: float = 1,
    ) -> Array:
        def dense(width: int, bias: bool, name: str) -> nn.Dense:
            return Dense(width, use_bias=bias, dtype=self.dtype, kernel_init=normal(self.init_std), name=name)

        def project(heads: int, name: str) -> Array:
            y = dense(heads * self.width, self.bias, name)(hidden)
            return y.reshape(*y.shape[:-1], heads, self.width)

        q, k, v = project(self.heads, "query"), project(self.groups, "key"), project(self.groups, "value")
        if self.query_key_norm:
            q = RMSNorm(self.epsilon, self.dtype, name="query_norm")(q)
            k = RMSNorm(self.epsilon, self.dtype, name="key_norm")(k)
        q, k = (rotate(x, positions * rotates, self.rotary.frequencies) for x in (q, k))
        k, v, their_positions, their_segments = self._seen(k, v, positions, segments)
        distance = positions[:, :, None] - their_positions[:, None, :]
        mask = (segments[:, :, None] == their_segments[:, None, :]) & (distance >= 0) & (distance < window)
        mixed = GroupedCore(self.dropout, name="core")(q, k, v, mask, noise, train)
        return dense(hidden.shape[-1], self.out_bias, "out")(mixed.reshape(*hidden.shape[:-1], -1))

    def _seen(self, k: Array, v: Array, positions: Array, segments: Array) -> tuple[Array, Array, Array, Array]:
        """Keys, values, positions and segments of all there is to see: with a cache what it held, and these."""
        mine = {"key": k, "value": v, "positions": positions, "segments": segments}
        if self.is_initializing() or not self.is_mutable_collection("cache"):
            return k, v, positions, segments
        filled = self.get_variable("cache", "filled", jnp.zeros((), jnp.int32))
        if self.has_variable("cache", "filled"):
            room = self.get_variable("cache", "key").shape[1] - filled
            mine["value"] = jnp.where(k.shape[1] <= room, v, jnp.nan)
            for name, new in mine.items():
                old: Array = self.get_variable("cache", name)
                mine[name] = jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), filled, axis=1)
        for name, array in (*mine.items(), ("filled", filled + k.shape[1])):
            self.put_variable("cache", name, array)
        return mine["key"], mine["value"], mine["positions"], mine["segments"]


class GatedMlp(nn.Module):
    """A gated linear unit (Shazeer 2020), `down(activation(gate(x)) · up(x))`: `hidden [B, T, D] -> [B, T, D]`."""

    width: int
    activation: str
    bias: bool = False
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        def dense(width: int, name: str) -> nn.Dense:
            return Dense(width, use_bias=self.bias, dtype=self.dtype, kernel_init=normal(self.init_std), name=name)

        gated = activation(self.activation)(dense(self.width, "gate")(hidden)) * dense(self.width, "up")(hidden)
        down: Array = dense(hidden.shape[-1], "down")(gated)
        return down


class DecoderLayer(nn.Module):
    """Norm, attention and residual, then norm, gated MLP and residual: `hidden [B, T, D] -> [B, T, D]`.

    `window` and `rotates` are as in `CausalAttention`.
    """

    heads: int
    groups: int
    head_width: int
    mlp_width: int
    activation: str
    rotary: Rotary
    query_key_norm: bool = False
    bias: bool = False  # of queries, keys and values
    out_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    epsilon: float = 1e-6
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        hidden: Array,
        positions: Array,
        segments: Array,
        noise: Array | None,
        train: bool,
        window: float = EVERYWHERE,
        rotates: float = 1,
    ) -> Array:
        attention = CausalAttention(
            self.heads,
            self.groups,
            self.head_width,
            self.rotary,
            self.query_key_norm,
            self.bias,
            self.out_bias,
            self.attention_dropout,
            self.epsilon,
            self.init_std,
            self.dtype,
            name="attention",
        )
        mlp = GatedMlp(self.mlp_width, self.activation, self.mlp_bias, self.init_std, self.dtype, name="mlp")
        normed = RMSNorm(self.epsilon, self.dtype, name="attention_norm")(hidden)
        hidden = hidden + attention(normed, positions, segments, noise, train, window, rotates)
        return hidden + mlp(RMSNorm(self.epsilon, self.dtype, name="mlp_norm")(hidden))


class LanguageHead(nn.Module):
    """The next token's logits: `hidden [B, T, D] -> logits` float32 `[B, T, vocabulary]`.

    A `tied` head has the token embeddings for its kernel: its stage borrows them as `embedding`.
    """

    vocabulary: int
    tied: bool = False
    init_std: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, hidden: Array, train: bool) -> Array:
        width = hidden.shape[-1]
        if self.tied:
            kernel = self.param("embedding", normal(self.init_std), (self.vocabulary, width), jnp.float32).T
        else:
            kernel = self.param("kernel", normal(self.init_std), (width, self.vocabulary), jnp.float32)
        return jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
