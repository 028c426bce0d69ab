from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from tests import chains
from tests.test_generation import MODEL
from tl_jax.errors import InputError
from tl_jax.tasks import CausalLM, task_class

BEGIN, END = 1, 2


@dataclass
class Letters:
    """A tokenizer of letters, which makes one token of "th": behind a begin token a is 10, b is 11, …, th is 99."""

    eos_id: int | None = END

    def ids(self, texts):
        return [np.asarray([BEGIN, *self._ids(text)], np.int32) for text in texts]

    def _ids(self, text):
        return [99 if c == "T" else ord(c) - ord("a") + 10 for c in text.replace("th", "T")]


def encode(texts, completions=None, length=8, **options):
    found = CausalLM(**options).encode(texts, completions, Letters(), length)
    return [ids.tolist() for ids in found.tokens], [ids.tolist() for ids in found.targets], found


def test_each_token_is_followed_by_the_next():
    tokens, targets, found = encode(["abc"])
    assert (tokens, targets, found.owners) == ([[1, 10, 11, 12]], [[10, 11, 12, -1]], [0])
    assert encode(["abc"], ends=True)[0] == [[1, 10, 11, 12, END]]


@pytest.mark.parametrize("length", [2, 3, 4, 5, 9])
def test_long_texts_are_cut_into_windows_that_predict_every_token_once(length, rng):
    texts = ["".join(chr(ord("a") + i % 18) for i in range(int(n))) for n in rng.integers(1, 20, 5)]
    tokens, targets, found = encode(texts, length=length)
    assert max(map(len, tokens)) <= length and found.truncated == 0
    for i, whole in enumerate(Letters().ids(texts)):
        mine = [k for k, owner in enumerate(found.owners) if owner == i]
        asked = [t for k in mine for t in targets[k] if t >= 0]
        assert asked == whole[1:].tolist()
        for k in mine:
            assert [t for t in targets[k] if t >= 0] == tokens[k][1:]


def test_completions_alone_are_predicted_and_their_end():
    tokens, targets, _ = encode(["ab"], ["cd"])
    assert tokens == [[1, 10, 11, 12, 13, END]]
    assert targets == [[-1, -1, 12, 13, END, -1]]
    assert encode(["ab"], ["cd"], ends=False)[0] == [[1, 10, 11, 12, 13]]


def test_a_token_of_both_belongs_to_the_completion():
    tokens, targets, _ = encode(["at"], ["he"])
    assert tokens == [[1, 10, 99, 14, END]] and targets == [[-1, 99, 14, END, -1]]


def test_an_example_that_is_too_long_loses_its_end():
    tokens, targets, found = encode(["ab", "abcdefgh"], ["cdefgh", "i"], length=6)
    assert tokens == [[1, 10, 11, 12, 13, 14], [1, 10, 11, 12, 13, 14]] and found.truncated == 2
    assert targets[0] == [-1, -1, 12, 13, 14, -1] and set(targets[1]) == {-1}


def test_the_loss_is_the_mean_over_what_is_asked(rng):
    logits = jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32)
    targets = np.asarray([[1, -1, 4], [-1, -1, 0]])
    task = CausalLM()
    total, count = task.total_loss({"logits": logits}, {"targets": targets})
    shares = np.exp(np.asarray(logits, np.float64))
    shares /= shares.sum(-1, keepdims=True)
    expected = -sum(np.log(shares[b, t, targets[b, t]]) for b, t in ((0, 0), (0, 2), (1, 2)))
    assert float(count) == 3 and float(total) == pytest.approx(expected, rel=1e-6)
    found = task.report({"logits": logits}, {"targets": targets})
    assert float(found["losses"].sum()) == pytest.approx(expected, rel=1e-6)
    best = np.argmax(logits, axis=-1)
    np.testing.assert_array_equal(found["hits"], (best == targets) & (targets >= 0))


def test_rows_of_padding_count_nothing_even_when_not_finite():
    logits = jnp.full((1, 2, 3), jnp.nan)
    total, count = CausalLM().total_loss({"logits": logits}, {"targets": np.full((1, 2), -1)})
    assert (float(total), float(count)) == (0, 0)


def test_it_takes_language_models_alone():
    assert task_class("causal_lm") is CausalLM and CausalLM().attach(MODEL) is MODEL
    with pytest.raises(InputError, match="needs a language model, and this one ends with 'head'"):
        CausalLM().attach(chains.bert())
    with pytest.raises(InputError, match="max_length 1 leaves no next token"):
        encode(["a"], length=1)
