"""A stage is one link of a model's chain, and the state what flows from stage to stage.

A stage is a small Linen module used through `init` and `apply` alone. The state is a flat dict of arrays from a closed
table, `STATE_KEYS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tl_jax.errors import InputError, did_you_mean
from tl_jax.own import FunctionNetwork, LinenNetwork

Variables = Mapping[str, Any]
State = Mapping[str, Any]

# The closed table of what may flow between stages (a new key is a line here). B rows, T positions, N examples.
STATE_KEYS: dict[str, str] = {
    "tokens": "i32 [B, T] token ids",
    "token_type": "i32 [B, T] what BERT calls segment",
    "mask": "bool [B, T] True = real",
    "positions": "i32 [B, T] position in its example",
    "segments": "i32 [B, T] which packed example, 0 = padding",
    "starts": "i32 [B, S] where the S examples of a packed row start; example n is slot n mod S of row n // S",
    "noise": "u32 [B, T] hash(example, position), or [B, 1] for images and audio: what dropout draws from",
    "image": "f32 [B, H, W, C] after preprocessing",
    "audio": "f32 [B, T] after preprocessing",
    "decoder_tokens": "i32 [B, T]",
    "decoder_mask": "bool [B, T]",
    "decoder_positions": "i32 [B, T]",
    "hidden": "[B, T, D], or [B, H, W, C] of images, compute dtype",
    "memory": "[B, T, D] encoder output",
    "bias": "additive attention bias",
    "pooled": "[N, D] one vector per example",
    "logits": "f32 [N, labels], or [B, T, vocabulary] of a language model",
}
_OPTIONAL = frozenset({"noise", "starts"})  # a stage that reads one gets None where the state has none
_FOREIGN_KEYS = {
    "input_ids": "tokens",
    "attention_mask": "mask",
    "token_type_ids": "token_type",
    "position_ids": "positions",
    "pixel_values": "image",
    "input_values": "audio",
    "input_features": "audio",
    "decoder_input_ids": "decoder_tokens",
    "decoder_attention_mask": "decoder_mask",
}
# What an argument of somebody's own network is called, and the state key it stands for.
ARGUMENTS = {**{key: key for key in STATE_KEYS}, **_FOREIGN_KEYS}


@dataclass(frozen=True)
class Stage:
    """One link of the chain.

    `module.__call__(*arrays in the order of reads, train=bool, **constants)` returns an array, or a tuple in the order
    of `writes`. `scope` is the subtree of its variables if not its name (ALBERT's layers share one); "" is everything
    that is in no other stage's scope. `borrows` are
    `(local leaf, absolute path)` pairs: leaves owned elsewhere and only read here (tied heads). `constants` are
    `(name, number)` pairs: what differs between otherwise alike layers.
    """

    name: str
    module: nn.Module | LinenNetwork | FunctionNetwork
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    scope: str | None = None
    borrows: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, float], ...] = ()

    @property
    def home(self) -> str:
        """The scope its variables lie in."""
        return self.name if self.scope is None else self.scope

    @property
    def keywords(self) -> dict[str, Any]:
        """Its constants, as the module takes them."""
        return dict(self.constants)


def check_variables(variables: Any) -> None:
    """Raise `InputError` for what is not `{collection: tree}` with params among the collections."""
    if not isinstance(variables, Mapping) or "params" not in variables:
        there = f"{{{', '.join(map(str, variables))}}}" if isinstance(variables, Mapping) else type(variables).__name__
        raise InputError(f"variables are {{collection: tree}} with params among them, not {there}")


def check_key(key: str, where: str) -> None:
    """Raise `InputError` naming `where` for a key that is not in the table."""
    if key not in STATE_KEYS:
        ours = _FOREIGN_KEYS.get(key)
        hint = f"; it is {ours!r} here" if ours else did_you_mean(key, STATE_KEYS)
        raise InputError(f"{where} has the unknown key {key!r}{hint}")


def complete(state: State) -> dict[str, Any]:
    """The state with what follows from the tokens filled in: one example a row, none of it padding."""
    state = dict(state)
    if "tokens" in state:
        tokens = state["tokens"] = jnp.asarray(state["tokens"])
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise InputError(f"tokens must be integers, not {tokens.dtype}")
        mask = state.setdefault("mask", jnp.ones(tokens.shape, bool))
        state["mask"] = mask = jnp.asarray(mask).astype(bool)
        state.setdefault("token_type", jnp.zeros(tokens.shape, jnp.int32))
        state.setdefault("positions", jnp.broadcast_to(jnp.arange(tokens.shape[-1], dtype=jnp.int32), tokens.shape))
        state.setdefault("segments", mask.astype(jnp.int32))
    return state


def arguments(stage: Stage, state: State) -> list[Any]:
    """What a stage reads, in its order. Raises `InputError` for what the state lacks."""
    if missing := [key for key in stage.reads if key not in state and key not in _OPTIONAL]:
        raise InputError(
            f"stage {stage.name!r} reads {', '.join(missing)}, which the state lacks (it has {', '.join(state)})"
        )
    return [state.get(key) for key in stage.reads]


def written(stage: Stage, out: Any) -> dict[str, Any]:
    """What a stage returned, by key. Raises `InputError` if it is not one array for each that it writes."""
    outs = out if isinstance(out, tuple) else (out,)
    if len(outs) != len(stage.writes):
        raise InputError(f"stage {stage.name!r} wrote {len(outs)} arrays for {', '.join(stage.writes)}")
    return dict(zip(stage.writes, outs, strict=True))
