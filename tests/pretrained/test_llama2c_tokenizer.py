"""The tokenizer of llama2.c against the greedy merge that its file is made for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.llama2c import encode
from tests.tiny_language import pieces, write_tokenizer
from tl_jax.errors import InputError
from tl_jax.pretrained import TextProcessor, load
from tl_jax.pretrained.llama2c_tokenizer import read_pieces, tokenizer

MERGED = [" t", "he", " the", "in", " a", "an", "and", " and", "aa", "ll", "ell", "hell", "he l"]
LETTERS = " aehilnstd.é"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tok") / "tok19.bin", pieces(MERGED, LETTERS))


@given(text=st.text(st.sampled_from(LETTERS + "z\n中"), max_size=40))
def test_ids_are_those_of_the_greedy_merge(file, text):
    assert tokenizer(file).encode(text).ids == encode(read_pieces(file), text)


def test_texts_come_back(file):
    made = tokenizer(file)
    for text in ("the hell and the ant", "zoo\n中 é", " two  spaces"):
        assert made.decode(made.encode(text).ids) == text


def test_what_is_written_is_read_by_transformers(file, tmp_path):
    import transformers

    processor = TextProcessor.read(file.parent, 40)
    processor.write(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = TextProcessor.read(tmp_path, 40)
    for text in ("the hell and the ant", "zoo\n中", ""):
        ids = encode(read_pieces(file), text)
        assert theirs(text)["input_ids"] == again.encode([text])[0][0].tolist() == ids
    assert (theirs.bos_token_id, theirs.eos_token_id) == (1, 2)


@pytest.mark.parametrize("cut", [2, 4 + 8, 100, -1])
def test_a_damaged_file_is_told(file, tmp_path, cut):
    path = tmp_path / "tok.bin"
    path.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"is not a tokenizer of llama2.c"):
        read_pieces(path)


def test_pieces_that_are_no_bytes_are_told(tmp_path):
    with pytest.raises(InputError, match="lacks the pieces of the 256 bytes"):
        read_pieces(write_tokenizer(tmp_path / "tok.bin", [("a", 0.0)] * 300))


def test_a_folder_of_weights_alone_is_not_a_model(file):
    with pytest.raises(InputError, match=r"holds no config.json"):
        load(file.parent)
