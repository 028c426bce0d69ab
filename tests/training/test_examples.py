"""Texts that leave nothing to learn, and where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

import tl_jax as tl
from tl_jax import data
from tl_jax.errors import InputError
from tl_jax.tasks import CausalLM
from tl_jax.training.examples import prepare, prepare_texts, prepare_windows

WORDS = tl.pretrained.OwnTokenizer(lambda text: [1 + len(word) for word in text.split()], 8)


class Language:
    """A word is a token; texts have no end."""

    eos_id = None

    def ids(self, texts: list[str]) -> list[list[int]]:
        return [[1 + len(word) for word in text.split()] for text in texts]


def test_a_text_without_tokens_is_named_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\nlate,a\n"two\nlines",b\n" ",a\n', encoding="utf-8")
    dataset = data.open(tmp_path / "a.csv", split="train")
    columns = data.infer_columns(dataset)
    with pytest.raises(InputError, match=r"a\.csv, line 5: the text ' ' has no tokens"):
        prepare(dataset, columns, ("a", "b"), WORDS, 8)
    with pytest.raises(InputError, match=r"a\.csv, line 5: the text ' ' has no tokens"):
        prepare(dataset.select([2, 0]), columns, ("a", "b"), WORDS, 8)
    with pytest.raises(InputError, match="text 1: the text '' has no tokens"):
        prepare_texts(["late", ""], WORDS, 8)


def test_windows_in_which_nothing_is_to_be_predicted() -> None:
    rows = [{"prompt": "one two three four ", "completion": "five"}] * 2
    pairs = data.open(rows, split="train")
    columns = data.infer_completions(pairs)
    assert len(prepare_windows(CausalLM(), pairs, columns, Language(), 5).examples) == 2
    with pytest.raises(InputError, match="nothing to predict, for no completion begins within 4 tokens"):
        prepare_windows(CausalLM(), pairs, columns, Language(), 4)
    texts = data.open([{"text": "one"}, {"text": ""}], split="train")
    with pytest.raises(InputError, match="nothing to predict, for no text is longer than a token"):
        prepare_windows(CausalLM(), texts, data.infer_completions(texts), Language(), 4)
