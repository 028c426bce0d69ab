"""Text, token by token: a language model continues prompts, each step reading what it saw before from a cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.rules import paths
from tl_jax.stage import Variables

_MULTIPLE = 16  # prompts are padded to it, and room is made by it, so that alike ones share what is compiled


@dataclass(frozen=True)
class Sampling:
    """How the next token is taken from the logits.

    temperature: 0 takes the likeliest (greedy); otherwise logits are divided by it before drawing.
    top_k: draw among so many of the likeliest; 0 is all.
    top_p: draw among the likeliest that together have this probability (Holtzman et al. 2020); 1 is all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"the temperature must be 0 (greedy) or a number above, not {self.temperature}")
        if self.top_k < 0:
            raise InputError(f"top_k must be 0 (all) or above, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1 (all), not {self.top_p}")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise InputError("top_k and top_p say what is drawn among: give a temperature above 0, such as 1")

    def take(self, logits: Array, keys: Array) -> Array:
        """Tokens int32 `[B]` from `logits [B, V]`, row by row with `keys [B]`."""
        if self.temperature == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logits = logits / self.temperature
        least = jnp.finfo(logits.dtype).min
        if 0 < self.top_k < logits.shape[-1]:
            logits = jnp.where(logits < jax.lax.top_k(logits, self.top_k)[0][:, -1:], least, logits)
        if self.top_p < 1:
            sorted_ = jnp.sort(logits, axis=-1)[:, ::-1]
            shares = jax.nn.softmax(sorted_, axis=-1)
            before = jnp.cumsum(shares, axis=-1) - shares  # of all that are likelier
            last = jnp.where(before < self.top_p, sorted_, jnp.inf).min(-1, keepdims=True)
            logits = jnp.where(logits < last, least, logits)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


GREEDY = Sampling()


def empty_cache(model: Model, variables: Variables, rows: int, length: int) -> dict[str, Any]:
    """A `cache` with room for `length` positions in each of `rows` rows, for `apply(…, mutable=("cache",))`."""

    def filled(variables: Variables) -> Any:
        tokens = jnp.zeros((rows, length), jnp.int32)
        return model.apply(variables, {"tokens": tokens}, mutable=("cache",))[1].get("cache", {})

    shapes = jax.eval_shape(filled, {k: v for k, v in variables.items() if k != "cache"})
    # Segment -1 is nobody's, so what is not filled yet is seen by no token, not even by padding.
    first = {"segments": -1}
    cache: dict[str, Any] = jax.tree.map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, first.get(path[-1].key, 0), leaf.dtype), shapes
    )
    return cache


def generate(
    model: Model,
    variables: Variables,
    prompts: Sequence[Sequence[int] | npt.NDArray[Any]],
    max_new_tokens: int,
    *,
    sampling: Sampling = GREEDY,
    stop: Sequence[int] = (),
    seed: int = 0,
    first: int = 0,
) -> list[list[int]]:
    """Continue each of `prompts` (token ids) by at most `max_new_tokens`; the continuations alone, int ids.

    A continuation ends before the first token of `stop`. What is drawn for a prompt depends on `seed` and its place in
    the list, not on the other prompts; `first` is the place of the first, where a longer list comes in parts. Raises
    `InputError` for an empty prompt, for what is no token id of the model, a seed that is no whole number from 0 to
    2**32 - 1, and a model that is no language model.
    """
    if not model.by_token:
        raise InputError(f"only a language model continues texts; this chain ends with {model.names[-1]!r}")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if not prompts:
        return []
    if not (hasattr(seed, "__index__") and 0 <= seed < 2**32):
        raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, not {seed}")
    table = paths(variables["params"]).get("embeddings/token/embedding")
    rows = 2**31 if table is None else table.shape[0]  # somebody's own network may keep it elsewhere
    for i, prompt in enumerate(prompts, first):
        ids = np.asarray(prompt)
        if not ids.size:
            raise InputError(f"prompt {i} has no tokens to continue")
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0 or ids.max() >= rows:
            raise InputError(f"prompt {i} must be token ids from 0 to {rows - 1}, not {_shown(ids)}")
    length = -(-max(map(len, prompts)) // _MULTIPLE) * _MULTIPLE
    tokens = np.zeros((len(prompts), length), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, prompt in enumerate(prompts):  # padded on the left: the last token of each is in the last column
        tokens[i, length - len(prompt) :], mask[i, length - len(prompt) :] = prompt, True
    room = -(-max_new_tokens // _MULTIPLE) * _MULTIPLE
    run = _compiled(model, room, sampling, tuple(int(i) for i in stop))
    found = np.asarray(
        run(dict(variables), tokens, mask, np.int32(max_new_tokens), np.int32(first), jax.random.key(seed))
    )
    return [_until(row[:max_new_tokens].tolist(), stop) for row in found]


def _shown(ids: npt.NDArray[Any]) -> str:
    return np.array2string(ids, threshold=8, edgeitems=4, separator=", ")


def _until(tokens: list[int], stop: Sequence[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[:end]


@lru_cache(maxsize=16)
def _compiled(model: Model, room: int, sampling: Sampling, stop: tuple[int, ...]) -> Any:
    """`(variables, tokens [B, T], mask, count, first, key) -> tokens [B, room]`, `count` of which are computed."""
    ends = jnp.array(stop, jnp.int32)
    head = model.names[-1]

    def run(variables: Any, tokens: Array, mask: Array, count: Array, first: Array, key: Array) -> Array:
        rows, length = tokens.shape
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))
        lengths = mask.sum(-1).astype(jnp.int32)
        positions = jnp.maximum(jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, 0)

        def step(cache: Any, state: Any, i: Array) -> tuple[Array, Any]:
            out, changed = model.apply({**variables, "cache": cache}, state, stop=head, mutable=("cache",))
            logits = model.apply(variables, {"hidden": out["hidden"][:, -1:]}, start=head)["logits"][:, 0]
            drawn = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
            return sampling.take(logits, drawn), changed["cache"]

        def more(carry: tuple[Array, Any, Array, Array]) -> Array:
            i, _, _, done = carry
            return (i < count) & ~done.all()

        def next_token(carry: tuple[Array, Any, Array, Array]) -> tuple[Array, Any, Array, Array]:
            i, cache, made, done = carry
            last = jax.lax.dynamic_index_in_dim(made, i - 1, axis=1)
            taken, cache = step(cache, {"tokens": last, "positions": (lengths + i - 1)[:, None]}, i)
            made = jax.lax.dynamic_update_slice_in_dim(made, taken[:, None], i, axis=1)
            return i + 1, cache, made, done | jnp.isin(taken, ends)

        cache = empty_cache(model, variables, rows, length + room)
        taken, cache = step(cache, {"tokens": tokens, "mask": mask, "positions": positions}, jnp.int32(0))
        made = jnp.zeros((rows, room), jnp.int32).at[:, 0].set(taken)
        return jax.lax.while_loop(more, next_token, (jnp.int32(1), cache, made, jnp.isin(taken, ends)))[2]

    return jax.jit(run)
