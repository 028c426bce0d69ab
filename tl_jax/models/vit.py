"""ViT (Dosovitskiy et al. 2021) as transformers computes it: `embeddings`, `layers_0` …, `norm`, `pooler`.

An image is cut into patches, a convolution makes a token of each, and a class token is put in front. `norm` is the norm
behind the last layer. A head of transformers is over the class token (`cls`); its plain model has a dense layer with
tanh over it (`pooler`); `mean` is the average over the patches (Beyer et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from tl_jax.errors import InputError, did_you_mean
from tl_jax.models import configs
from tl_jax.models.layers import (
    Conv,
    Dense,
    Dropout,
    Embed,
    LayerNorm,
    Mlp,
    Module,
    SelfAttention,
    activation,
    compact,
    noise_by_position,
    normal,
)
from tl_jax.models.names import Entry, NameMap, dense, norm
from tl_jax.stage import Stage

INPUTS = ("image",)
POOLINGS = ("cls", "mean", "pooler")
CLASSIFIER = ("ForImageClassification", "cls")  # the class of transformers with a head, and the pooling below that

Size = int | tuple[int, int]


@dataclass(frozen=True)
class VitConfig:
    """What config.json says of the architecture; its other keys are kept beside the model, not here."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Size = 224
    patch_size: Size = 16
    num_channels: int = 3
    qkv_bias: bool = True
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return *pair(self.image_size), self.num_channels

    @property
    def grid(self) -> tuple[int, int]:
        """How many patches an image has from top to bottom, and from left to right."""
        (height, width), (tall, wide) = pair(self.image_size), pair(self.patch_size)
        return height // tall, width // wide


def pair(size: Size) -> tuple[int, int]:
    """Height and width: of a number, a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


Config = TypeVar("Config", bound=VitConfig)


def CONFIG(raw: Mapping[str, Any]) -> VitConfig:
    """Read config.json; raises `InputError` for keys that are missing or variants of ViT we do not compute."""
    return read(VitConfig, raw, "ViT")


def read(kind: type[Config], raw: Mapping[str, Any], family: str) -> Config:
    """`CONFIG` for families whose config.json has ViT's keys; `family` is their name in messages."""
    required = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = {key: _size(raw[key], key) for key in ("image_size", "patch_size") if raw.get(key) is not None}
    config = configs.read(kind, {**raw, **sizes}, family, required, "hidden_size", "num_attention_heads")
    if raw.get("head_dim") not in (None, config.hidden_size // config.num_attention_heads):
        raise InputError(f"config.json: heads of another width (head_dim {raw['head_dim']}) are not supported")
    if 0 in config.grid:
        raise InputError(f"config.json: patches of {config.patch_size} do not fit into images of {config.image_size}")
    activation(config.hidden_act)
    activation(config.pooler_act)
    return config


def _size(value: Any, key: str) -> Size:
    sides = value if isinstance(value, list | tuple) else [value]
    if len(sides) > 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"config.json: {key} must be a number of pixels or [height, width], not {value!r}")
    return tuple(sides) if len(sides) == 2 else sides[0]


def at_size(params: Mapping[str, Any], config: VitConfig, size: Size, front: int = 1) -> dict[str, Any]:
    """The params for images of another size: the positions of the patches are interpolated to the new grid.

    `config` is that of `params`; `front` tokens come before the patches, and keep theirs. Bicubic (Keys 1981), as
    transformers' `interpolate_pos_encoding` has it. Raises `InputError` for a size without room for a patch.
    """
    tall, wide = pair(config.patch_size)
    grid = pair(size)[0] // tall, pair(size)[1] // wide
    if 0 in grid:
        raise InputError(f"the image size {size} has no room for a patch of {config.patch_size}")
    embeddings = params["embeddings"]
    table = np.asarray(embeddings["position"]["embedding"])
    patches = table[front:].astype(np.float32).reshape(*config.grid, -1)
    down, across = (_bicubic(old, new) for old, new in zip(config.grid, grid, strict=True))
    patches = np.einsum("yh,xw,hwd->yxd", down, across, patches).reshape(-1, table.shape[1])
    table = np.concatenate([table[:front], patches.astype(table.dtype)])
    return {**params, "embeddings": {**embeddings, "position": {"embedding": table}}}


def _bicubic(old: int, new: int) -> np.ndarray:
    """The matrix `[new, old]` that interpolates a row of samples, with torch's a = -0.75 and repeated ends."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        place = np.floor(at).astype(int) + tap
        t = np.abs(at - place)
        near, far = ((1.25 * t - 2.25) * t) * t + 1, ((-0.75 * t + 3.75) * t - 6) * t + 3
        np.add.at(weights, (np.arange(new), place.clip(0, old - 1)), np.where(t <= 1, near, far))
    return weights.astype(np.float32)


class VitEmbeddings(Module):
    """`image [B, H, W, C] -> hidden [B, T, D]`: the tokens named in `front`, then one for each patch, row by row."""

    size: tuple[int, int, int]
    patch: tuple[int, int]
    width: int
    front: tuple[str, ...] = ("class_token",)
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: Any = None

    @compact
    def __call__(self, image: Array, noise: Array | None, train: bool) -> Array:
        if image.shape[1:] != self.size:
            raise InputError(
                f"the model takes images of {_said(self.size)}, not {_said(image.shape[1:])}: its processor makes "
                "them so, and image_size= loads it for another size"
            )
        init = normal(self.init_std)
        patch = Conv(
            self.width, self.patch, self.patch, padding="VALID", dtype=self.dtype, kernel_init=init, name="patch"
        )
        patches = patch(image).reshape(len(image), -1, self.width)
        front = [self.param(name, init, (1, self.width), jnp.float32) for name in self.front]
        tokens = jnp.concatenate(front).astype(patches.dtype)
        hidden = jnp.concatenate([jnp.broadcast_to(tokens, (len(image), *tokens.shape)), patches], axis=1)
        length = hidden.shape[1]
        position = Embed(length, self.width, dtype=self.dtype, embedding_init=init, name="position")
        hidden = hidden + position(jnp.arange(length))
        return Dropout(self.dropout, name="dropout")(hidden, noise_by_position(noise, length), train)


def _said(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


class VitLayer(Module):
    """Attention and MLP, each behind a norm and added to what came in: `hidden [B, T, D] -> [B, T, D]`."""

    heads: int
    mlp_width: int
    activation: str
    attention_dropout: float = 0.0  # of the weights
    dropout: float = 0.0
    epsilon: float = 1e-12
    qkv_bias: bool = True
    init_std: float = 0.02
    dtype: Any = None

    @compact
    def __call__(self, hidden: Array, noise: Array | None, train: bool) -> Array:
        attention = SelfAttention(
            self.heads, self.attention_dropout, self.dropout, self.init_std, self.dtype, self.qkv_bias, name="attention"
        )
        mlp = Mlp(self.mlp_width, self.activation, self.dropout, self.init_std, self.dtype, name="mlp")
        noise = noise_by_position(noise, hidden.shape[1])
        update = LayerNorm(self.epsilon, self.dtype, name="attention_norm")(hidden)
        hidden = hidden + attention(update, None, noise, train)
        update = LayerNorm(self.epsilon, self.dtype, name="mlp_norm")(hidden)
        return hidden + mlp(update, noise, train)


class VitPooler(Module):
    """One vector an image: `hidden [B, T, D] -> pooled [B, D]`; `pooler` has a dense layer of its own width.

    `cls` is the first token, `mean` the average of those behind the `front` ones, `pooler` a dense layer over `cls`.
    """

    pooling: str
    front: int = 1
    width: int = 0
    activation: str = "tanh"
    init_std: float = 0.02
    dtype: Any = None

    @compact
    def __call__(self, hidden: Array, train: bool) -> Array:
        if self.pooling == "mean":
            return hidden[:, self.front :].astype(jnp.float32).mean(1).astype(hidden.dtype)
        if self.pooling == "cls":
            return hidden[:, 0]
        dense = Dense(self.width, dtype=self.dtype, kernel_init=normal(self.init_std), name="dense")
        return activation(self.activation)(dense(hidden[:, 0]))


def stages(config: VitConfig, pooling: str, front: tuple[str, ...] = ("class_token",)) -> tuple[Stage, ...]:
    """The chain: `embeddings`, `layers_i`, `norm`, `pooler`; `pooling` is one of `POOLINGS`.

    `front` are the tokens before the patches. Raises `InputError` for another pooling.
    """
    if pooling not in POOLINGS:
        raise InputError(
            f"images are pooled by {', '.join(POOLINGS)}, not {pooling!r}{did_you_mean(pooling, POOLINGS)}"
        )
    c = config
    embeddings = VitEmbeddings(
        c.image_shape, pair(c.patch_size), c.hidden_size, front, c.hidden_dropout_prob, c.initializer_range
    )
    layer = VitLayer(
        c.num_attention_heads,
        c.intermediate_size,
        c.hidden_act,
        c.attention_probs_dropout_prob,
        c.hidden_dropout_prob,
        c.layer_norm_eps,
        c.qkv_bias,
        c.initializer_range,
    )
    width = c.pooler_output_size or c.hidden_size
    pooler = VitPooler(pooling, len(front), width, c.pooler_act, c.initializer_range)
    return (
        Stage("embeddings", embeddings, ("image", "noise"), ("hidden",)),
        *(Stage(f"layers_{i}", layer, ("hidden", "noise"), ("hidden",)) for i in range(c.num_hidden_layers)),
        Stage("norm", LayerNorm(c.layer_norm_eps), ("hidden",), ("hidden",)),
        Stage("pooler", pooler, ("hidden",), ("pooled",)),
    )


def _linear(file: str, memory: str, ours: str) -> tuple[Entry, ...]:
    """A dense layer as files name it, and as transformers v5 does in memory."""
    return tuple(
        Entry(entry.foreign, entry.canonical, entry.transform, older=(twin.foreign,))
        for entry, twin in zip(dense(file, ours), dense(memory, ours), strict=True)
    )


def _norm(file: str, memory: str, ours: str) -> tuple[Entry, ...]:
    return tuple(
        Entry(f"{file}.{theirs}", f"{ours}/{name}", older=(f"{memory}.{theirs}",))
        for theirs, name in (("weight", "scale"), ("bias", "bias"))
    )


_LAYER, _NOW = "encoder.layer.{i}", "layers.{i}"
BACKBONE = (
    Entry("embeddings.cls_token", "embeddings/class_token", "row"),
    Entry("embeddings.position_embeddings", "embeddings/position/embedding", "row"),
    Entry("embeddings.patch_embeddings.projection.weight", "embeddings/patch/kernel", "conv"),
    Entry("embeddings.patch_embeddings.projection.bias", "embeddings/patch/bias"),
    *_norm(f"{_LAYER}.layernorm_before", f"{_NOW}.layernorm_before", "layers_{i}/attention_norm"),
    *_linear(f"{_LAYER}.attention.attention.query", f"{_NOW}.attention.q_proj", "layers_{i}/attention/query"),
    *_linear(f"{_LAYER}.attention.attention.key", f"{_NOW}.attention.k_proj", "layers_{i}/attention/key"),
    *_linear(f"{_LAYER}.attention.attention.value", f"{_NOW}.attention.v_proj", "layers_{i}/attention/value"),
    *_linear(f"{_LAYER}.attention.output.dense", f"{_NOW}.attention.o_proj", "layers_{i}/attention/out"),
    *_norm(f"{_LAYER}.layernorm_after", f"{_NOW}.layernorm_after", "layers_{i}/mlp_norm"),
    *_linear(f"{_LAYER}.intermediate.dense", f"{_NOW}.mlp.fc1", "layers_{i}/mlp/up"),
    *_linear(f"{_LAYER}.output.dense", f"{_NOW}.mlp.fc2", "layers_{i}/mlp/down"),
    *norm("layernorm", "norm"),
    *dense("pooler.dense", "pooler/dense"),
)
IGNORED = (r"embeddings\.mask_token", r"decoder\..*")  # what a model that fills in masked patches has more
NAMES = NameMap(BACKBONE, classifier=dense("classifier", "head"), prefixes=("vit.",), ignored=IGNORED)
