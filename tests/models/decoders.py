"""The decoders as transformers computes them: what an odd configuration of each `model_type` is, and padded inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tl_jax.models.layers import ACTIVATIONS

LENGTH = 7
TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def draw(model_type: str, rng: np.random.Generator, **given: Any) -> dict[str, Any]:
    """An odd configuration: grouped heads of their own width, windows shorter than the texts, each kind of rotation."""
    groups, shared = ((1, 3), (3, 1), (3, 3), (2, 5))[rng.integers(4)]
    heads = groups * shared
    # a norm of two features leaves them an angle, and its gradient is a difference of nearly equal numbers
    head_dim = int(rng.choice([4, 6] if model_type == "qwen3" else [2, 4, 6]))
    raw: dict[str, Any] = {
        "vocab_size": int(rng.integers(5, 40)),
        "hidden_size": heads * int(rng.choice([2, 3])),
        "num_hidden_layers": int(rng.choice([1, 3])),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head_dim,
        "intermediate_size": 2 * int(rng.integers(3, 12)) + 1,
        "hidden_act": str(rng.choice(sorted(ACTIVATIONS))),
        "max_position_embeddings": LENGTH + 5,
        "rms_norm_eps": float(rng.choice([1e-5, 1e-6])),
        "tie_word_embeddings": bool(rng.integers(2)),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        **rotation(str(rng.choice(["default", "linear", "llama3"])), rng),
    }
    if model_type in ("llama", "qwen3", "smollm3"):
        raw["attention_bias"] = bool(rng.integers(2))
    if model_type in ("llama", "smollm3"):
        raw["mlp_bias"] = bool(rng.integers(2))
    if model_type == "mistral":
        raw["sliding_window"] = [None, 1, 3][rng.integers(3)]
    if model_type in ("qwen2", "qwen3"):
        window = {"use_sliding_window": bool(rng.integers(4)), "sliding_window": 3, "max_window_layers": 1}
        raw |= window if rng.integers(2) else {}
    if model_type == "smollm3":
        window = {"use_sliding_window": True, "sliding_window": 3}
        raw |= {"no_rope_layer_interval": 2, **(window if rng.integers(2) else {})}
    return raw | given


def rotation(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """The keys of a rotation, as early files have them or as later ones do; of llama3 every band is met."""
    base = float(rng.choice([10.0, 50.0, 10_000.0]))
    rest: dict[str, Any] = {} if kind == "default" else {"factor": float(rng.choice([1.5, 4.0]))}
    if kind == "llama3":
        rest |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    if rng.integers(2):
        return {"rope_parameters": {"rope_type": kind, "rope_theta": base, **rest}}
    name = "type" if kind == "linear" else "rope_type"
    return {"rope_theta": base, "rope_scaling": {name: kind, **rest} if rest else None}


def inputs(raw: dict[str, Any], rng: np.random.Generator, side: str) -> dict[str, np.ndarray]:
    """Four texts, padded on the `side`, of which one is not padded and one has a single token."""
    lengths = np.asarray([LENGTH, 1, *rng.integers(1, LENGTH, 2)])
    mask = np.arange(LENGTH) < lengths[:, None]
    mask = mask if side == "right" else mask[:, ::-1]
    tokens = rng.integers(0, raw["vocab_size"], (4, LENGTH))
    return {"tokens": tokens.astype(np.int32), "mask": mask}
