"""What a model of texts is asked: the same rows each time, some padded, of texts and from all over the vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny import FAMILIES, WORDS, write_bert
from tests.tiny_language import write_llama
from tl_jax.pretrained import load
from tl_jax.verification.texts import batch, compared, prepared


@pytest.mark.parametrize("kind", FAMILIES)
def test_rows_of_texts_and_of_drawn_tokens(kind: str, tmp_path: Path) -> None:
    model, _ = load(write_bert(tmp_path / "model", kind=kind))
    rows = batch(model)
    assert rows.keys() == {"tokens", "mask", "token_type", "positions", "segments"}
    assert all(np.array_equal(value, batch(model)[key]) for key, value in rows.items())
    lengths = rows["mask"].sum(1)
    assert lengths.max() == rows["tokens"].shape[1] == 16 and lengths.min() == 1 and len(set(lengths)) > 4
    assert not np.any(rows["tokens"][rows["mask"]] == 0) and not np.any(rows["tokens"][~rows["mask"]])
    assert rows["tokens"].max() < len(WORDS) and len(np.unique(rows["tokens"])) > 15
    assert rows["token_type"].max() == (kind != "distilbert")  # of the pairs, where a model tells them apart


def test_without_a_tokenizer_tokens_are_drawn(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "model", max_position_embeddings=9)
    (folder / "vocab.txt").unlink()
    model, _ = load(folder)
    rows = batch(model)
    assert rows["mask"].sum(1).tolist() == [9, 5, 1] and not rows["token_type"].any()


def test_short_models_get_no_pairs(tmp_path: Path) -> None:
    model, _ = load(write_bert(tmp_path / "model", max_position_embeddings=5))
    assert batch(model)["tokens"].shape == (7, 5)


def test_decoders_are_asked_the_same(tmp_path: Path) -> None:
    model, _ = load(write_llama(tmp_path / "model"))
    rows = batch(model)
    lengths = rows["mask"].sum(1)
    assert lengths.max() == rows["tokens"].shape[1] == 16 and lengths.min() == 1
    assert np.array_equal(rows["mask"], np.arange(16) < lengths[:, None])  # padded on the right


def test_the_first_text_that_differs_is_told(tmp_path: Path) -> None:
    model, _ = load(write_bert(tmp_path / "model"))
    ours = prepared(batch(model))
    assert compared(ours, ours, "there").passed
    other = [*ours[:2], [7, *ours[2][1:]], *ours[3:]]
    assert compared(ours, other, "there").faults == (f"a text becomes {ours[2][:8]}, and {other[2][:8]} there",)
    assert not compared(ours, ours[:-1], "there").passed
