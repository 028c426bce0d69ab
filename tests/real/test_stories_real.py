"""stories260K, a Llama that llama2.c trained: its own logits and its own story, from Meta's names and from ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.llama2c import encode
from tests.parity import PARITY, relative
from tests.pretrained.conftest import outputs
from tl_jax.generation import generate
from tl_jax.pretrained import load, save
from tl_jax.pretrained.llama2c_tokenizer import read_pieces
from tl_jax.rules import paths


@pytest.fixture(scope="module")
def stories(data: Path) -> Path:
    folder = data / "w_stories260k_llama"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def test_golden_logits_and_the_golden_story(stories: Path) -> None:
    golden = np.load(stories / "golden.npz")
    tokens = golden["greedy_tokens"]
    model, variables = load(stories)
    assert sum(leaf.size for leaf in paths(variables).values()) == 260_032
    logits = outputs(model, variables, {"tokens": tokens[None, :24].astype(np.int32)})["logits"][0]
    assert relative(logits, golden["logits_first24"]) <= PARITY
    (story,) = generate(model, variables, [tokens[:1]], len(tokens) - 1)
    assert story == tokens[1:].tolist()
    published = (stories / "golden_greedy.txt").read_text("utf-8").replace("<0x0A>", "\n").strip()
    assert model.processor.decode([story]) == [published]


def test_the_folder_we_write_is_one_of_transformers(stories: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    golden = np.load(stories / "golden.npz")
    out = save(tmp_path / "out", *load(stories))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    start = torch.tensor(golden["greedy_tokens"][None, :1])
    with torch.no_grad():
        told = theirs.generate(start, max_new_tokens=100, do_sample=False)[0]
    assert told.tolist() == golden["greedy_tokens"].tolist()
    assert tokenizer.decode(told, skip_special_tokens=True).startswith("Once upon a time")


def test_ids_are_those_of_the_greedy_merge(stories: Path, data: Path, rng: np.random.Generator) -> None:
    """1,000 strings: passages of a play, stories' words, and characters of every script."""
    play = (data / "t_lm_corpora" / "tinyshakespeare.txt").read_text("utf-8")
    starts = rng.integers(0, len(play) - 200, 700)
    points = [chr(int(p)) for p in rng.integers(1, 0x110000, 3000) if not 0xD800 <= p < 0xE000]
    texts = [play[start : start + int(n)] for start, n in zip(starts, rng.integers(1, 200, 700), strict=True)]
    texts += ["".join(points[i : i + 9]) for i in range(0, 2700, 9)][:300]
    assert len(texts) == 1000
    pieces = read_pieces(stories / "tok512.bin")
    for text, (ids, _) in zip(texts, load(stories)[0].processor.encode(texts), strict=True):
        assert ids.tolist() == encode(pieces, text), text
