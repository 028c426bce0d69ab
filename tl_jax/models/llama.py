"""The Llama line (Touvron et al. 2023) as transformers computes it: Llama 2 and 3, Mistral, Qwen2, Qwen3, SmolLM.

One chain, `embeddings`, `layers_0` …, `norm`, and on it the language model's `head` (pooling "none"), or a `pooler` for
a classifier. What differs between the layers of one model, windows and whether positions rotate, are the constants of
their stages. SmolLM and SmolLM2 are Llamas; SmolLM3 is a `model_type` of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tl_jax.errors import InputError, did_you_mean
from tl_jax.models import configs
from tl_jax.models.decoder_layers import EVERYWHERE, DecoderLayer, LanguageHead, RMSNorm, TokenEmbeddings
from tl_jax.models.layers import activation, pooler_stage
from tl_jax.models.names import Entry, NameMap, dense
from tl_jax.models.rotary import KINDS, Rotary
from tl_jax.stage import Stage


@dataclass(frozen=True)
class LlamaConfig:
    """What config.json says of the architecture, whichever of the line it is.

    `windows` and `rotates` have a number a layer: how many tokens it sees (`EVERYWHERE` for all) and whether (1 or 0)
    positions rotate.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary: Rotary
    windows: tuple[int, ...]
    rotates: tuple[int, ...]
    hidden_act: str
    max_position_embeddings: int
    initializer_range: float
    rms_norm_eps: float
    attention_dropout: float
    tie_word_embeddings: bool
    query_key_norm: bool
    bias: bool
    out_bias: bool
    mlp_bias: bool

    @property
    def positions(self) -> int:
        """The most tokens a text can have."""
        return self.max_position_embeddings


@dataclass(frozen=True)
class _Kind:
    """One of the line: its name, what is not said in its config.json, and what none of its config.json says.

    `bias` (of queries, keys and values) and `out_bias` None are `attention_bias` in config.json.
    """

    name: str
    defaults: Mapping[str, Any]
    query_key_norm: bool = False
    bias: bool | None = None
    out_bias: bool | None = None
    windows: str = ""  # "all" layers have `sliding_window`, or those that `layer_types` names: "some"


_KINDS = {
    "llama": _Kind("Llama", {"max_position_embeddings": 2048}),
    "mistral": _Kind(
        "Mistral",
        {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
        bias=False,
        out_bias=False,
        windows="all",
    ),
    "qwen2": _Kind(
        "Qwen2",
        {"max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096},
        bias=True,
        out_bias=False,
        windows="some",
    ),
    "qwen3": _Kind(
        "Qwen3",
        {"max_position_embeddings": 32_768, "num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096},
        query_key_norm=True,
        windows="some",
    ),
    "smollm3": _Kind(
        "SmolLM3",
        {
            "max_position_embeddings": 32_768,
            "num_key_value_heads": 4,
            "rope_theta": 2_000_000.0,
            "tie_word_embeddings": True,
            "no_rope_layer_interval": 4,
        },
        windows="some",
    ),
}


@dataclass(frozen=True)
class _Said:
    """The keys of config.json that hold one value each, and what they are by default."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool = False
    max_window_layers: int = 28
    no_rope_layer_interval: int | None = None
    rope_theta: float = 10_000.0


_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_POSITIVE = ("num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window", "no_rope_layer_interval")
_MLP_BIASES = ("llama", "smollm3")  # those of the line whose `mlp_bias` is read


def CONFIG(raw: Mapping[str, Any]) -> LlamaConfig:
    """Read config.json; raises `InputError` for keys that are missing and variants we do not compute."""
    kind = _KINDS[raw.get("model_type") or "llama"]
    everything = {**kind.defaults, **raw}  # null in config.json is not absent: a window of null is none
    given = configs.checked(_Said, everything, kind.name, _REQUIRED, _POSITIVE)
    said = _Said(**{"max_position_embeddings": kind.defaults["max_position_embeddings"], **given})
    width, heads, depth = said.hidden_size, said.num_attention_heads, said.num_hidden_layers
    groups = said.num_key_value_heads or heads
    if heads % groups:
        raise InputError(f"config.json: num_attention_heads {heads} is not divisible by num_key_value_heads {groups}")
    if said.head_dim is None and width % heads:
        raise InputError(f"config.json: hidden_size {width} is not divisible by num_attention_heads {heads}")
    head_dim = said.head_dim or width // heads
    if head_dim % 2:
        raise InputError(f"config.json: a head of {head_dim} features has no pairs to rotate; it must be even")
    activation(said.hidden_act)
    rotates = _rotates(everything.get("no_rope_layers"), said.no_rope_layer_interval, depth)
    return LlamaConfig(
        said.vocab_size,
        width,
        said.intermediate_size,
        heads,
        groups,
        head_dim,
        _rotary(everything, said, head_dim),
        _windows(everything.get("layer_types"), said, kind, rotates),
        rotates,
        said.hidden_act,
        said.max_position_embeddings,
        said.initializer_range,
        said.rms_norm_eps,
        said.attention_dropout,
        said.tie_word_embeddings,
        kind.query_key_norm,
        said.attention_bias if kind.bias is None else kind.bias,
        said.attention_bias if kind.out_bias is None else kind.out_bias,
        said.mlp_bias and raw.get("model_type", "llama") in _MLP_BIASES,
    )


def _rotary(raw: Mapping[str, Any], said: _Said, width: int) -> Rotary:
    """Early files have `rope_theta` and `rope_scaling`, later ones all of it in `rope_parameters`."""
    found = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(found, Mapping):
        raise InputError(f"config.json: rope_scaling must hold names and numbers, not {found!r:.99}")
    rope = dict(found)
    if nested := [key for key, value in rope.items() if isinstance(value, Mapping)]:
        raise InputError(f"config.json: rotary positions by type of layer ({', '.join(nested)}) are not supported")
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    if kind not in KINDS:
        raise InputError(
            f"config.json: rope_type {kind!r:.99} is not supported, only {', '.join(KINDS)}{did_you_mean(kind, KINDS)}"
        )
    part = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if part not in (None, 1):
        raise InputError(f"config.json: partial_rotary_factor {part!r:.99} is not supported, only 1")
    numbers = {key: value for key, value in rope.items() if type(value) in (int, float) and math.isfinite(value)}
    base = float(numbers.get("rope_theta") or said.rope_theta or 10_000.0)
    needed = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}[kind]
    if missing := [key for key in needed if key not in numbers]:
        raise InputError(f"config.json: rope_type {kind!r} needs the numbers {', '.join(missing)}")
    if needed and numbers["factor"] <= 0:
        raise InputError(f"config.json: rope_type {kind!r}: factor must be above 0, not {numbers['factor']}")
    factor, low, high = (float(numbers.get(key, 1.0)) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    if kind != "llama3":
        return Rotary(width, base, kind, factor if needed else 1.0)
    if not 0 < low < high:
        raise InputError(
            "config.json: rope_type 'llama3': high_freq_factor must be above low_freq_factor, that above 0"
        )
    original = numbers.get("original_max_position_embeddings") or said.max_position_embeddings
    return Rotary(width, base, kind, factor, low, high, int(original))


def _rotates(given: Any, interval: int | None, depth: int) -> tuple[int, ...]:
    """SmolLM3: every so many-th layer has no positions, unless the layers that have are given one by one."""
    if interval is None:
        return (1,) * depth
    if given is None:
        return tuple(int((i + 1) % interval != 0) for i in range(depth))
    if not isinstance(given, list) or len(given) < depth:
        raise InputError(f"config.json: no_rope_layers must speak of {depth} layers, not {given!r:.99}")
    return tuple(int(bool(one)) for one in given[:depth])


def _windows(types: Any, said: _Said, kind: _Kind, rotates: tuple[int, ...]) -> tuple[int, ...]:
    """How many tokens each layer sees."""
    depth, window = len(rotates), said.sliding_window
    if kind.windows == "all" and window is not None:
        return (window,) * depth
    if kind.windows != "some":
        return (EVERYWHERE,) * depth
    window = window if said.use_sliding_window else None
    if types is None and said.no_rope_layer_interval is not None:
        types = ["full_attention" if rotary or window is None else "sliding_attention" for rotary in rotates]
    elif types is None:
        first = said.max_window_layers
        types = ["sliding_attention" if window is not None and i >= first else "full_attention" for i in range(depth)]
    if not isinstance(types, list) or len(types) != depth:
        raise InputError(f"config.json: layer_types must name the {depth} layers' types, not {types!r:.99}")
    if unknown := sorted({str(t) for t in types} - {"full_attention", "sliding_attention"}):
        raise InputError(f"config.json: layer_types {', '.join(unknown):.99} are not supported")
    if "sliding_attention" in types and window is None:
        raise InputError("config.json: layer_types has sliding_attention, but no sliding_window is in use")
    return tuple(int(window or 0) if t == "sliding_attention" else EVERYWHERE for t in types)


def default_pooling(raw: Mapping[str, Any], paths: Iterable[str]) -> str:
    """What `--pooling auto` is: "none" for a language model, else "last", as transformers' classifiers have it."""
    classes = [str(name) for name in raw.get("architectures") or ()]
    if classes:
        return "none" if any(name.endswith("ForCausalLM") for name in classes) else "last"
    return "none" if CONFIG(raw).tie_word_embeddings or "head/kernel" in paths else "last"


def stages(config: LlamaConfig, pooling: str) -> tuple[Stage, ...]:
    """The chain: `embeddings`, `layers_i`, `norm`, then the language model's `head`, or a `pooler`.

    `pooling` is "none" for the head, or "cls", "mean" or "last" for the pooler.
    """
    c = config
    if pooling == "pooler":
        raise InputError("a decoder has no pooler of its own: choose --pooling last, mean or cls")
    layer = DecoderLayer(
        heads=c.num_attention_heads,
        groups=c.num_key_value_heads,
        head_width=c.head_dim,
        mlp_width=c.intermediate_size,
        activation=c.hidden_act,
        rotary=c.rotary,
        query_key_norm=c.query_key_norm,
        bias=c.bias,
        out_bias=c.out_bias,
        mlp_bias=c.mlp_bias,
        attention_dropout=c.attention_dropout,
        epsilon=c.rms_norm_eps,
        init_std=c.initializer_range,
    )
    embeddings = TokenEmbeddings(c.vocab_size, c.hidden_size, c.initializer_range)
    reads = ("hidden", "positions", "segments", "noise")
    return (
        Stage("embeddings", embeddings, ("tokens",), ("hidden",)),
        *(Stage(f"layers_{i}", layer, reads, ("hidden",), constants=_constants(c, i)) for i in range(len(c.windows))),
        Stage("norm", RMSNorm(c.rms_norm_eps), ("hidden",), ("hidden",)),
        _head(c) if pooling == "none" else pooler_stage(pooling, c.initializer_range),
    )


def _constants(config: LlamaConfig, i: int) -> tuple[tuple[str, float], ...]:
    """What sets layer i apart: nothing in a model whose layers are all alike and see everything."""
    window = (("window", config.windows[i]),) if min(config.windows) < EVERYWHERE else ()
    rotates = (("rotates", config.rotates[i]),) if not all(config.rotates) else ()
    return window + rotates


def _head(config: LlamaConfig) -> Stage:
    module = LanguageHead(config.vocab_size, config.tie_word_embeddings, config.initializer_range)
    borrows = (("embedding", "embeddings/token/embedding"),) if config.tie_word_embeddings else ()
    return Stage("head", module, ("hidden",), ("logits",), borrows=borrows)


_LAYER = "layers.{i}"
NAMES = NameMap(
    (
        Entry("embed_tokens.weight", "embeddings/token/embedding"),
        *(
            entry
            for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("o_proj", "out"))
            for entry in dense(f"{_LAYER}.self_attn.{theirs}", f"layers_{{i}}/attention/{ours}")
        ),
        Entry(f"{_LAYER}.self_attn.q_norm.weight", "layers_{i}/attention/query_norm/scale"),
        Entry(f"{_LAYER}.self_attn.k_norm.weight", "layers_{i}/attention/key_norm/scale"),
        *(
            entry
            for part in ("gate", "up", "down")
            for entry in dense(f"{_LAYER}.mlp.{part}_proj", f"layers_{{i}}/mlp/{part}")
        ),
        Entry(f"{_LAYER}.input_layernorm.weight", "layers_{i}/attention_norm/scale"),
        Entry(f"{_LAYER}.post_attention_layernorm.weight", "layers_{i}/mlp_norm/scale"),
        Entry("norm.weight", "norm/scale"),
    ),
    classifier=(Entry("lm_head.weight", "head/kernel", "transpose"),),
    prefixes=("model.",),
    # frequencies that early files hold, and the heads of the classes that label texts or tokens
    ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"rotary_emb\.inv_freq", r"score\..*", r"qa_outputs\..*"),
    ties=(("lm_head.weight", "embeddings/token/embedding"),),
)
