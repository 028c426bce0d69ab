"""Continuing texts: the same tokens as the full forward gives, whatever else is in the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.chains import bert, fault
from tests.chains import variables as drawn_variables
from tl_jax.generation import GREEDY, Sampling, generate
from tl_jax.model import Model
from tl_jax.models.llama import CONFIG, stages

RAW = {
    "vocab_size": 19,
    "hidden_size": 12,
    "intermediate_size": 15,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "model_type": "qwen3",
    "head_dim": 4,
    "use_sliding_window": True,
    "sliding_window": 3,
    "max_window_layers": 1,
}
MODEL = Model(stages(CONFIG(RAW), "none"))
LAST = RAW["vocab_size"] - 1


@pytest.fixture
def variables(rng):
    return drawn_variables(MODEL, rng)


def one_by_one(variables, prompt, count):
    """Greedy by the full forward, over all there is so far, for each token."""
    tokens = list(prompt)
    for _ in range(count):
        logits = MODEL.apply(variables, {"tokens": np.asarray([tokens])})["logits"][0, -1]
        tokens.append(int(jnp.argmax(logits)))
    return tokens[len(prompt) :]


def prompts(rng):
    return [rng.integers(0, RAW["vocab_size"], n).tolist() for n in (3, 1, 6)]


def test_greedy_is_the_likeliest_token_of_the_full_forward(rng, variables):
    given = prompts(rng)
    assert generate(MODEL, variables, given, 5) == [one_by_one(variables, prompt, 5) for prompt in given]


def test_a_continuation_ends_before_a_stop(rng, variables):
    given = prompts(rng)
    free = generate(MODEL, variables, given, 8)
    stop = free[0][2]
    stopped = generate(MODEL, variables, given, 8, stop=[stop])
    assert stopped == [row[: row.index(stop)] if stop in row else row for row in free]
    assert len(stopped[0]) <= 2


def test_what_is_drawn_depends_on_seed_and_place_alone(rng, variables):
    given, warm = prompts(rng), Sampling(temperature=1.0)
    drawn = generate(MODEL, variables, given, 6, sampling=warm, seed=3)
    assert drawn == generate(MODEL, variables, given, 6, sampling=warm, seed=3)
    assert drawn[:2] == generate(MODEL, variables, given[:2], 6, sampling=warm, seed=3)
    assert [row[:4] for row in drawn] == generate(MODEL, variables, given, 4, sampling=warm, seed=3)
    assert len({str(generate(MODEL, variables, given, 6, sampling=warm, seed=s)) for s in range(4)}) > 1


def test_all_but_the_likeliest_left_out_is_greedy(rng, variables):
    given = prompts(rng)
    greedy = generate(MODEL, variables, given, 5)
    for narrow in (Sampling(1.0, top_k=1), Sampling(1.0, top_p=1e-6), Sampling(1e-6)):
        assert generate(MODEL, variables, given, 5, sampling=narrow) == greedy


def test_tokens_are_drawn_as_often_as_they_are_likely():
    shares = np.asarray([0.5, 0.3, 0.15, 0.05])
    draws, logits = 20_000, jnp.log(jnp.asarray(shares, jnp.float32))
    keys = jax.random.split(jax.random.key(0), draws)

    def frequencies(sampling):
        taken = sampling.take(jnp.broadcast_to(logits, (draws, 4)), keys)
        return np.bincount(np.asarray(taken), minlength=4) / draws

    def near(found, expected):
        expected = np.asarray(expected) / np.sum(expected)
        assert (np.abs(found - expected) <= 6 * np.sqrt(expected * (1 - expected) / draws)).all()

    near(frequencies(Sampling(1.0)), shares)
    near(frequencies(Sampling(0.5)), shares**2)
    near(frequencies(Sampling(1.0, top_k=2)), [0.5, 0.3, 0, 0])
    near(frequencies(Sampling(1.0, top_p=0.75)), [0.5, 0.3, 0, 0])
    near(frequencies(Sampling(1.0, top_p=0.85)), [0.5, 0.3, 0.15, 0])
    near(frequencies(GREEDY), [1, 0, 0, 0])


def test_mistakes_are_told(rng, variables):
    assert "only a language model continues texts; this chain ends with 'head'" in fault(generate, bert(), {}, [[1]], 1)
    assert "prompt 1 has no tokens" in fault(generate, MODEL, variables, [[1], []], 1)
    for prompt in ([LAST + 1], [-1], [1.5], [[1]]):
        said = fault(generate, MODEL, variables, [[0], [LAST], prompt], 1)
        assert f"prompt 2 must be token ids from 0 to {LAST}, not [" in said
    for seed in (-1, 2**32, 1.5):
        assert f"seed must be a whole number from 0 to 2**32 - 1, not {seed}" in fault(
            generate, MODEL, variables, [[1]], 1, seed=seed
        )
    assert "max_new_tokens must be at least 1" in fault(generate, MODEL, variables, [[1]], 0)
    assert generate(MODEL, variables, [], 1) == []
    for settings, said in (
        ({"temperature": -1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"temperature": float("inf")}, "temperature must be 0"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"top_p": 0.5}, "give a temperature above 0"),
        ({"top_k": 5}, "give a temperature above 0"),
    ):
        assert said in fault(Sampling, **settings)


def test_a_cache_must_be_named_and_positions_given(rng, variables):
    tokens = {"tokens": np.asarray([[1, 2]])}
    _, cache = MODEL.apply(variables, tokens, mutable=("cache",))
    seen = {**variables, **cache}
    assert "name it in `mutable`" in fault(MODEL.apply, seen, tokens)
    assert "give their `positions`" in fault(MODEL.apply, seen, tokens, mutable=("cache",))
