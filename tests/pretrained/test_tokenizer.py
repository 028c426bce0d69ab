from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pretrained.conftest import WORDS, set_json
from tl_jax.errors import InputError
from tl_jax.pretrained.tokenizer import TextProcessor

MORE = [
    "mot",
    "##e",
    "é",
    "e",
    "ö",
    "##ö",
    "中",
    "##文",
    "hug",
    "##ging",
    "!",
    "'",
    "-",
    "😀",
    "##😀",
    "x" * 40,
    "ß",
    "i",
]
ODD = [
    "",
    " ",
    "\t\n\r",
    "\x00\x01\x1f\x7f\x80\ufffd\u200b\u200d\ufeff\u00ad\u2028",
    "Where is my parcel?",
    "WHERE  IS\u00a0MY\u3000parcels",
    "mot é motée MÉ e\u0301 Ö o\u0308 ß İ ﬁ Å",
    "中文 a中b 日本語 한국어 🀄",
    "😀 a😀b 👩\u200d👩\u200d👧 🏳️\u200d🌈",
    "x" * 40,
    "x" * 100 + " a",
    "x" * 101 + " a",
    "a" * 3000,
    "hugging's don't-stop!!!",
    "[SEP] a [CLS][MASK] [PAD] [sep] [UNK]b",
    "العربية עברית ไทย हिन्दी",
    "a\u0300\u0301\u0302\u0303",
    "½ ² ٣ Ⅷ ㎏",
    "\U0001d400\U0001d401 \U000e0041",
    'http://a.b/c?d=e&f#g <br/> {"a": [1, 2]}',
]


def folder_of(path: Path, **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    words = list(dict.fromkeys(WORDS + MORE))
    (path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **config}))
    return path


def processor_of(path: Path, positions: int | None = 5000) -> TextProcessor:
    found = TextProcessor.read(path, positions)
    assert found is not None
    return found


def odd_texts(rng: np.random.Generator, n: int) -> list[str]:
    """Strings of letters of the vocabulary and of every plane of Unicode that UTF-8 can hold."""
    letters = [*"abcde .,?é中😀", "parcel", "mot", "x" * 30]
    points = [int(p) for p in rng.integers(1, 0x110000, 8 * n) if not 0xD800 <= p < 0xE000]
    return [
        "".join(chr(points.pop()) if points and rng.random() < 0.3 else str(rng.choice(letters)) for _ in range(size))
        for size in rng.integers(0, 12, n)
    ]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"do_lower_case": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
    ],
)
def test_ids_are_those_of_transformers(tmp_path: Path, rng: np.random.Generator, config: dict[str, Any]) -> None:
    import transformers

    folder = folder_of(tmp_path / "t", **config)
    theirs = transformers.BertTokenizerFast.from_pretrained(folder)
    texts = ODD + odd_texts(rng, 300)
    pairs = texts[::-1]
    theirs.save_pretrained(tmp_path / "saved")  # the same as tokenizer.json
    for place in (folder, tmp_path / "saved"):
        ours = processor_of(place)
        for theirs_said, ours_said in (
            (theirs(texts), ours.encode(texts)),
            (theirs(texts, pairs), ours.encode(texts, pairs=pairs)),
            (theirs(texts, truncation=True, max_length=7), ours.encode(texts, 7)),
            (theirs(texts, pairs, truncation=True, max_length=9), ours.encode(texts, 9, pairs=pairs)),
        ):
            for i, (ids, types) in enumerate(ours_said):
                assert ids.tolist() == theirs_said["input_ids"][i], texts[i]
                assert types.tolist() == theirs_said["token_type_ids"][i], texts[i]


# -- RoBERTa's ----------------------------------------------------------------------------------------------------

MARKS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}


def byte_level_folder(path: Path, **config: Any) -> Path:
    """vocab.json and merges.txt of some texts, as RoBERTa's were made."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=letters, show_progress=False)
    learned.train_from_iterator(["where is my parcel? the parcels are where the hugging was, mot motée"] * 3, trainer)
    path.mkdir()
    learned.model.save(str(path))
    vocab = json.loads((path / "vocab.json").read_text("utf-8"))
    ids = MARKS | {token: i for i, token in enumerate(sorted(vocab, key=vocab.__getitem__), len(MARKS))}
    (path / "vocab.json").write_text(json.dumps({**ids, "<mask>": len(ids)}), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer", **config}))
    (path / "config.json").write_text('{"model_type": "roberta"}')  # what transformers looks up
    return path


def sentencepiece_folder(path: Path, kind: str) -> Path:
    """tokenizer.json of a small sentencepiece vocabulary, as transformers writes it."""
    import transformers

    pieces = ["▁", *"abcdehilmoprstuwy?,", "▁where", "▁is", "▁my", "▁parcel", "▁mot", "é", "中"]
    vocab = [
        *((mark, 0.0) for mark in MARKS),
        *((piece, -float(i)) for i, piece in enumerate(pieces, 1)),
        ("<mask>", 0.0),
    ]
    getattr(transformers, kind)(vocab=vocab).save_pretrained(path)
    return path


def assert_ids_are_theirs(ours: TextProcessor, theirs: Any, texts: list[str]) -> None:
    pairs = texts[::-1]
    for theirs_said, ours_said in (
        (theirs(texts, return_token_type_ids=True), ours.encode(texts)),
        (theirs(texts, pairs, return_token_type_ids=True), ours.encode(texts, pairs=pairs)),
        (theirs(texts, truncation=True, max_length=7, return_token_type_ids=True), ours.encode(texts, 7)),
    ):
        for i, (ids, types) in enumerate(ours_said):
            assert ids.tolist() == theirs_said["input_ids"][i], texts[i]
            assert types.tolist() == theirs_said["token_type_ids"][i], texts[i]


@pytest.mark.parametrize("config", [{}, {"add_prefix_space": True}])
def test_ids_of_byte_level_pairs_are_those_of_transformers(
    tmp_path: Path, rng: np.random.Generator, config: dict[str, Any]
) -> None:
    """From the two files, from tokenizer.json, and from the latter where the config says otherwise."""
    import transformers

    folder = byte_level_folder(tmp_path / "t", **config)
    theirs = transformers.RobertaTokenizer.from_pretrained(folder)
    texts = ODD + odd_texts(rng, 100) + ["<s> a</s> <unk>b<pad>"]
    assert_ids_are_theirs(processor_of(folder), theirs, texts)
    theirs.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").exists()
    assert_ids_are_theirs(processor_of(tmp_path / "saved"), theirs, texts)
    set_json(tmp_path / "saved" / "tokenizer_config.json", add_prefix_space=not config.get("add_prefix_space", False))
    moved = transformers.RobertaTokenizer.from_pretrained(tmp_path / "saved")
    assert_ids_are_theirs(processor_of(tmp_path / "saved"), moved, texts)
    assert moved(["where"])["input_ids"] != theirs(["where"])["input_ids"]


@pytest.mark.parametrize("kind", ["XLMRobertaTokenizer", "CamembertTokenizer"])
def test_ids_of_sentencepiece_are_those_of_transformers(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    import transformers

    folder = sentencepiece_folder(tmp_path / "t", kind)
    theirs = getattr(transformers, kind).from_pretrained(folder)
    assert_ids_are_theirs(processor_of(folder), theirs, ODD + odd_texts(rng, 100))


def test_the_pad_token_of_roberta(tmp_path: Path) -> None:
    """Also where no file names it, as in the first folders of RoBERTa."""
    folder = byte_level_folder(tmp_path / "t")
    assert processor_of(folder).pad_id == 1
    (folder / "special_tokens_map.json").write_text('{"pad_token": {"content": "<unk>"}}')
    assert processor_of(folder).pad_id == 3
    set_json(folder / "tokenizer_config.json", pad_token="<pad>")
    assert processor_of(folder).pad_id == 1
    for kind in ("XLMRobertaTokenizer", "CamembertTokenizer"):
        assert processor_of(sentencepiece_folder(tmp_path / kind, kind)).pad_id == 1


def test_two_files_that_are_no_vocabulary(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path / "t")
    (folder / "merges.txt").write_text("one two three\n")
    with pytest.raises(InputError, match=r"merges\.txt are not a tokenizer"):
        processor_of(folder).encode(["a"])
    (folder / "vocab.json").write_text('{"<s>": 0}')
    with pytest.raises(InputError, match=r"vocab\.json lacks <unk>, </s>, <pad>: it is not a vocabulary of RoBERTa"):
        processor_of(folder).encode(["a"])
    (folder / "merges.txt").unlink()
    assert TextProcessor.read(folder) is None


def test_a_sentencepiece_model_alone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path / "t", "XLMRobertaTokenizer")
    (folder / "sentencepiece.bpe.model").write_bytes(b"pieces")
    assert processor_of(folder).pad_id == 1
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        InputError, match=r"sentencepiece\.bpe\.model alone.*AutoTokenizer\.from_pretrained\('.*t'\)\.save_"
    ):
        TextProcessor.read(folder)


# -- padding, lengths and mistakes ---------------------------------------------------------------------------------


def test_padding_and_truncation_written_into_the_file_are_left_out(tmp_path: Path) -> None:
    import transformers

    folder = folder_of(tmp_path / "t")
    saved = tmp_path / "saved"
    transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(saved)
    content = json.loads((saved / "tokenizer.json").read_text())
    content["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    content["padding"] = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (saved / "tokenizer.json").write_text(json.dumps(content))
    long = ["a b c d e a b c d e"]
    assert [len(ids) for ids, _ in processor_of(saved).encode([*long, "a"])] == [12, 3]


def test_switches_of_the_config_hold_over_those_of_tokenizer_json(tmp_path: Path) -> None:
    import transformers

    saved = tmp_path / "saved"
    transformers.BertTokenizerFast.from_pretrained(folder_of(tmp_path / "t")).save_pretrained(saved)
    lowered = processor_of(saved).encode(["PARCEL"])
    set_json(saved / "tokenizer_config.json", do_lower_case=False)
    kept = processor_of(saved).encode(["PARCEL"])
    assert lowered[0][0].tolist()[1] == WORDS.index("parcel") and kept[0][0].tolist()[1] == WORDS.index("[UNK]")
    set_json(saved / "tokenizer_config.json", do_lower_case=None)  # silent: tokenizer.json decides
    assert processor_of(saved).encode(["PARCEL"])[0][0].tolist() == lowered[0][0].tolist()


def test_a_batch_is_what_a_model_takes(tmp_path: Path) -> None:
    processor = processor_of(folder_of(tmp_path / "t"))
    batch = processor(["where is my parcel ?", "a", ""], pairs=["b", "c d", ""])
    cls, sep = WORDS.index("[CLS]"), WORDS.index("[SEP]")
    assert {k: v.dtype.name for k, v in batch.items()} == {
        "tokens": "int32",
        "mask": "bool",
        "token_type": "int32",
        "positions": "int32",
        "segments": "int32",
    }
    assert all(v.shape == (3, 9) for v in batch.values())
    assert batch["tokens"][1].tolist() == [cls, WORDS.index("a"), sep, WORDS.index("c"), WORDS.index("d"), sep, 0, 0, 0]
    assert batch["token_type"][1].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert batch["mask"][1].tolist() == [True] * 6 + [False] * 3
    assert batch["positions"][1].tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0]
    assert batch["segments"][1].tolist() == [1] * 6 + [0] * 3
    assert batch["tokens"][2].tolist() == [cls, sep, sep] + [0] * 6


def test_a_pad_token_elsewhere(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "t", pad_token={"content": "e", "lstrip": False})
    processor = processor_of(folder)
    assert processor.pad_id == WORDS.index("e")
    assert processor(["a b", "a"])["tokens"][1, -1] == WORDS.index("e")


def test_no_texts(tmp_path: Path) -> None:
    processor = processor_of(folder_of(tmp_path / "t"))
    assert processor.encode([]) == [] and processor.encode([]).truncated == 0
    assert processor([])["tokens"].shape == (0, 0)


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(3, 12))
def test_truncated_texts_are_counted(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int) -> None:
    processor = processor_of(folder_of(tmp_path_factory.getbasetemp() / "counted"))
    found = processor.encode([" ".join("a" * size) for size in sizes], most)
    assert [len(ids) for ids, _ in found] == [min(size + 2, most) for size in sizes]
    assert found.truncated == sum(size + 2 > most for size in sizes)
    assert all(ids[-1] == WORDS.index("[SEP]") for ids, _ in found)


def test_truncation_side_is_that_of_the_config(tmp_path: Path) -> None:
    processor = processor_of(folder_of(tmp_path / "t", truncation_side="left"))
    assert processor.encode(["a b c d"], 4)[0][0].tolist() == [WORDS.index(w) for w in ("[CLS]", "c", "d", "[SEP]")]


@pytest.mark.parametrize(
    ("sentence_bert", "model_max_length", "positions", "expected"),
    [
        (256, 512, 512, 256),
        (None, 128, 512, 128),
        (None, None, 64, 64),
        (None, 10**30, 64, 64),
        (1000, None, 512, 512),
        (None, None, None, 512),
    ],
)
def test_max_length_is_the_least_the_files_say(
    tmp_path: Path, sentence_bert: int | None, model_max_length: int | None, positions: int | None, expected: int
) -> None:
    folder = folder_of(tmp_path / "t", **({} if model_max_length is None else {"model_max_length": model_max_length}))
    if sentence_bert is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": sentence_bert}))
    processor = processor_of(folder, positions)
    assert processor.max_length == expected
    found = processor.encode(["a " * 2000])
    assert len(found[0][0]) == expected and found.truncated == 1


def test_lengths_that_cannot_be(tmp_path: Path) -> None:
    processor = processor_of(folder_of(tmp_path / "t"), 64)
    assert len(processor.encode(["a " * 100], 64)[0][0]) == 64
    with pytest.raises(InputError, match="max_length 65 is more than the 64 positions the model has"):
        processor.encode(["a"], 65)
    with pytest.raises(InputError, match="no room for text: it must be 3 or more"):
        processor.encode(["a"], 2)
    with pytest.raises(InputError, match="it must be 4 or more"):
        processor.encode(["a"], 3, pairs=["b"])


@pytest.mark.parametrize("bad", [None, 3, ["a"], b"a", float("nan")])
def test_what_is_no_text_is_named_by_its_place(tmp_path: Path, bad: Any) -> None:
    processor = processor_of(folder_of(tmp_path / "t"))
    with pytest.raises(InputError, match="text 1 is not a string"):
        processor.encode(["a", bad])
    with pytest.raises(InputError, match="text 2 is not a string"):
        processor.encode(["a", "b", "c"], pairs=["a", "b", bad])


def test_one_text_is_not_a_list_of_texts(tmp_path: Path) -> None:
    processor = processor_of(folder_of(tmp_path / "t"))
    with pytest.raises(InputError, match="a list of texts"):
        processor("where is my parcel?")
    with pytest.raises(InputError, match="2 texts, but 1 pairs"):
        processor(["a", "b"], pairs=["c"])


def test_lone_surrogates_count_as_the_replacement_character(tmp_path: Path) -> None:
    processor = processor_of(folder_of(tmp_path / "t"))
    broken, whole = processor.encode(["a \ud83d b", "a \ud83d\ude00"]), processor.encode(["a \ufffd b", "a 😀"])
    assert [ids.tolist() for ids, _ in broken] == [ids.tolist() for ids, _ in whole]


def test_fingerprint_changes_with_anything_that_changes_ids(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "t")
    first = processor_of(folder).fingerprint
    assert first == processor_of(folder_of(tmp_path / "elsewhere")).fingerprint
    assert len(first) == 64
    set_json(folder / "tokenizer_config.json", do_lower_case=False)
    second = processor_of(folder).fingerprint
    (folder / "vocab.txt").write_text("\n".join(WORDS[:-1]))
    assert len({first, second, processor_of(folder).fingerprint}) == 3


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    assert TextProcessor.read(tmp_path) is None


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "t")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json is not a tokenizer"):
        processor_of(folder).encode(["a"])
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("a\nb\n[SEP]\n")
    with pytest.raises(InputError, match=r"vocab\.txt lacks \[UNK\], \[PAD\], \[CLS\]"):
        processor_of(folder).encode(["a"])
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object"):
        processor_of(folder)


def test_the_package_is_imported_at_first_use_and_torch_never(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "t")
    program = (
        "import sys; from pathlib import Path; from tl_jax.pretrained.tokenizer import TextProcessor\n"
        "p = TextProcessor.read(Path(sys.argv[1]), 64); assert 'tokenizers' not in sys.modules\n"
        "p(['a b']); assert 'tokenizers' in sys.modules\n"
        "assert not {'torch', 'transformers', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)


def test_odd_texts_reach_every_kind_of_character(rng: np.random.Generator) -> None:
    kinds = {unicodedata.category(c) for text in odd_texts(rng, 300) for c in text}
    assert {"Ll", "Lo", "So", "Cn", "Co"} <= kinds
