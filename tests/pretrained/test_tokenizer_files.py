"""Tokenizers without a tokenizer.json: whose files are read, the tokens added to them, and their special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pretrained.conftest import WORDS
from tests.pretrained.test_tokenizer import (
    ODD,
    assert_ids_are_theirs,
    byte_level_folder,
    processor_of,
    sentencepiece_folder,
)
from tl_jax.errors import InputError

NEW = len(WORDS) + 1  # behind the vocabulary's last, [unused1]
TEXTS = [
    "a <url> b <URL> a<url>b [unused1] c",
    "[cls] [CLS] a [MASK] b [mask] <B> [UNUSED1]  <url>  d",
    "<m> a</s> <mask> b<mask>  <unk> <pad> where",
    *ODD,
]


def token(content: str, **switches: Any) -> dict[str, Any]:
    """A token as transformers writes it into tokenizer_config.json."""
    plain = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), False)
    return {"content": content, **plain, **switches}


def bert_folder(path: Path, config: dict[str, Any], files: dict[str, Any] | None = None) -> Path:
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join([*WORDS, "[unused1]"]) + "\n", encoding="utf-8")
    (path / "config.json").write_text('{"model_type": "bert"}')
    return with_files(path, {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", **config}, **(files or {})})


def with_files(path: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (path / name).write_text(json.dumps(content))
    return path


def assert_ids_are_those_of_auto(folder: Path) -> None:
    import transformers

    assert_ids_are_theirs(processor_of(folder), transformers.AutoTokenizer.from_pretrained(folder), TEXTS)


# -- added tokens ---------------------------------------------------------------------------------------------------

ADDED, MAP = "added_tokens.json", "special_tokens_map.json"
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a token added": ({}, {ADDED: {"<url>": NEW}}),
    "in capitals, which the vocabulary has none of": ({}, {ADDED: {"<URL>": NEW}}),
    "two, the later id first": ({}, {ADDED: {"<m>": NEW + 1, "<url>": NEW}}),
    "one of the vocabulary's": ({}, {ADDED: {"<url>": NEW, "[unused1]": NEW - 1}}),
    "a special one": ({"additional_special_tokens": ["<URL>"]}, {ADDED: {"<URL>": NEW}}),
    "a special one by the map": ({}, {ADDED: {"<URL>": NEW}, MAP: {"additional_special_tokens": ["<URL>"]}}),
    "a role's": ({"cls_token": "<url>"}, {ADDED: {"<url>": NEW}}),
    "a role's by the map": ({}, {ADDED: {"<url>": NEW}, MAP: {"cls_token": "<url>"}}),
    "a decoder": ({"added_tokens_decoder": {str(NEW): token("<url>")}}, {}),
    "a decoder and no second word": ({"added_tokens_decoder": {str(NEW): token("<url>")}}, {ADDED: {"<B>": NEW}}),
    "two of a decoder": (
        {"added_tokens_decoder": {str(NEW + 1): token("<m>"), str(NEW): token("<url>", lstrip=True, rstrip=True)}},
        {},
    ),
    "whole words": ({"added_tokens_decoder": {str(NEW): token("<url>", single_word=True)}}, {}),
    "normalized": ({"added_tokens_decoder": {str(NEW): token("<URL>", normalized=True)}}, {}),
    "not normalized": ({"added_tokens_decoder": {str(NEW): token("<URL>", special=True)}}, {}),
    "a role's in a decoder": (
        {"added_tokens_decoder": {"2": token("[CLS]", normalized=True, special=True)}, "cls_token": "[CLS]"},
        {},
    ),
    "special tokens of the vocabulary": ({"additional_special_tokens": ["[unused1]"]}, {}),
    "by their newer name": ({"extra_special_tokens": ["[unused1]"]}, {}),
    "by the map": ({}, {MAP: {"additional_special_tokens": ["[unused1]"]}}),
    "a role that goes around no text": ({"bos_token": "<B>"}, {}),
    "a role by the map": ({}, {MAP: {"cls_token": "[unused1]", "sep_token": {**token("d"), "special": True}}}),
    "a role by both": ({"cls_token": "[CLS]"}, {MAP: {"cls_token": "[unused1]"}}),
    "no map beside a decoder": ({"added_tokens_decoder": {}, "cls_token": "c"}, {MAP: {"cls_token": "[unused1]"}}),
    "a role with switches": ({}, {MAP: {"mask_token": token("[MASK]", lstrip=True, normalized=True)}}),
    "a role with switches in the config": (
        {"mask_token": {**token("[MASK]", rstrip=True), "__type": "AddedToken"}},
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ids_with_added_tokens_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    assert_ids_are_those_of_auto(bert_folder(tmp_path / "t", *CASES[case]))


def test_ids_where_the_vocabulary_lacks_the_mask(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "t", {})
    (folder / "vocab.txt").write_text("\n".join(word for word in WORDS if word != "[MASK]"))
    assert_ids_are_those_of_auto(folder)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {ADDED: {"<url>": 296}},
        {MAP: {"mask_token": token("<mask>", lstrip=True)}},
        {MAP: {"sep_token": "<m>"}, ADDED: {"<m>": 296}},
    ],
)
def test_ids_of_byte_level_pairs_with_added_tokens(tmp_path: Path, said: dict[str, Any]) -> None:
    folder = byte_level_folder(tmp_path / "t")
    assert len(json.loads((folder / "vocab.json").read_text())) == 296
    assert_ids_are_those_of_auto(with_files(folder, said))


def test_an_added_token_gets_the_id_of_its_file(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "t", {}, {ADDED: {"<url>": NEW}})
    assert processor_of(folder).encode(["<url>"])[0][0].tolist() == [2, NEW, 3]
    message = rf"added_tokens\.json says that the token <url> has the id 99, and .* gets {NEW}: they are not of one"
    with pytest.raises(InputError, match=message):
        processor_of(with_files(folder, {ADDED: {"<url>": 99}})).encode(["a"])


@pytest.mark.parametrize(
    ("config", "added", "message"),
    [
        ({}, {"<url>": "x"}, r"added_tokens\.json: the id of an added token must be a whole number, not 'x'"),
        ({}, {"<url>": -1}, r"must be a whole number, not -1"),
        ({"added_tokens_decoder": []}, {}, r"tokenizer_config\.json: added_tokens_decoder must be an object"),
        ({"added_tokens_decoder": {"25": 3}}, {}, r"a special token must be a text, not 3"),
        ({"added_tokens_decoder": {"25": {"content": "x", "lstrip": "no"}}}, {}, r"make no tokenizer \(TypeError"),
        ({"additional_special_tokens": "<url>"}, {}, r"extra_special_tokens must be a list of tokens, not '<url>'"),
        ({"unk_token": "<url>"}, {"<url>": NEW}, r"vocab\.txt lacks <url>: it is not a vocabulary of BERT"),
    ],
)
def test_added_tokens_that_are_none(tmp_path: Path, config: dict[str, Any], added: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        processor_of(bert_folder(tmp_path / "t", config, {ADDED: added})).encode(["a"])


# -- the class ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [None, "BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer"])
@pytest.mark.parametrize("place", ["tokenizer_config.json", "config.json"])
def test_classes_whose_vocabulary_is_read(tmp_path: Path, named: str | None, place: str) -> None:
    folder = bert_folder(tmp_path / "t", {"tokenizer_class": None})
    assert_ids_are_those_of_auto(with_files(folder, {place: {"model_type": "bert", "tokenizer_class": named}}))


@pytest.mark.parametrize("named", [None, "RobertaTokenizer", "RobertaTokenizerFast"])
def test_classes_whose_pairs_are_read(tmp_path: Path, named: str | None) -> None:
    assert_ids_are_those_of_auto(byte_level_folder(tmp_path / "t", tokenizer_class=named))


@pytest.mark.parametrize("place", ["tokenizer_config.json", "config.json"])
def test_a_class_of_other_rules_is_refused(tmp_path: Path, place: str) -> None:
    """As of tohoku-nlp/bert-base-japanese, whose words a program finds, and of HerBERT, whose pairs have their own."""
    words, pairs = bert_folder(tmp_path / "w", {"tokenizer_class": None}), byte_level_folder(tmp_path / "p")
    (pairs / "tokenizer_config.json").unlink()
    for folder, named in ((words, "BertJapaneseTokenizer"), (pairs, "HerbertTokenizerFast"), (pairs, "GPT2Tokenizer")):
        processor = processor_of(with_files(folder, {place: {"tokenizer_class": named}}))
        with pytest.raises(InputError) as caught:
            processor.encode(["a"])
        assert f"{folder}: tokenizer_class is {named} and there is no tokenizer.json" in str(caught.value)
        assert "vocab.txt for BertTokenizer or DistilBertTokenizer, vocab.json and merges.txt for" in str(caught.value)
        assert f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained(" in str(caught.value)


def test_the_config_of_the_tokenizer_names_its_class_before_that_of_the_model(tmp_path: Path) -> None:
    folder = with_files(bert_folder(tmp_path / "t", {}), {"config.json": {"tokenizer_class": "BertJapaneseTokenizer"}})
    assert processor_of(folder).encode(["a"])[0][0].tolist() == [2, 5, 3]


def test_words_that_a_program_finds_are_refused(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "t", {"tokenizer_class": None, "word_tokenizer_type": "mecab"})
    with pytest.raises(InputError, match=r"config\.json: word_tokenizer_type is 'mecab', and only basic is read; tl\."):
        processor_of(folder).encode(["a"])
    assert processor_of(bert_folder(tmp_path / "b", {"word_tokenizer_type": "basic"})).encode(["a"])


def test_a_tokenizer_json_is_read_whatever_its_class(tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path / "t", "XLMRobertaTokenizer")
    texts, config = ["where is my parcel"], folder / "tokenizer_config.json"
    before = processor_of(folder).encode(texts)[0][0]
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "BertJapaneseTokenizer"}))
    assert processor_of(folder).encode(texts)[0][0].tolist() == before.tolist()
