"""Folders that are broken, or meant to break whoever loads them: each gives one clear error, in bounded memory.

What pickles can hold beside the one here is in `test_hostile_torch_files.py`, opcode by opcode.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.pretrained.spoiling import (
    Spoil,
    another_family,
    config,
    cut,
    endless,
    entry,
    file,
    folder_elsewhere,
    framed,
    holding,
    index,
    link,
    pickled,
    raw,
    renamed,
    shard_elsewhere,
    shards,
    tensors,
    twice,
)
from tests.tiny import CONFIG, FAMILIES, WORDS, Tiny, write_bert
from tl_jax.errors import InputError
from tl_jax.models.heads import classifier
from tl_jax.pretrained import load, save
from tl_jax.pretrained.safetensors_files import INDEX, SINGLE

MIB = 1 << 20

EMBEDDING = "bert.embeddings.word_embeddings.weight"
HALF = '{"a\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
CASES: dict[str, tuple[Spoil, str]] = {
    # -- safetensors: the header
    "an empty file": (raw(b""), "model.safetensors is truncated or damaged"),
    "a page of HTML": (raw(b"<!DOCTYPE html><html><body>Not found</body></html>"), "is not a safetensors file"),
    "a pointer of Git LFS": (
        raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:53aa\nsize 90868376\n"),
        "is a Git LFS pointer, not the weights: run git lfs pull",
    ),
    "cut in its header": (lambda folder: cut(folder / SINGLE, 100), "is truncated or damaged"),
    "a header of 2**63 bytes": (framed("{}", length=1 << 63), r"its header would have 9,223,372,036,854,775,808 bytes"),
    "a header longer than the file": (framed("{}", length=1000), "it ends in its header"),
    "a header of 15 MiB in 10 bytes": (framed("{}", length=15 * MIB), "it ends in its header"),
    "a header that is no JSON": (framed('{"a": nonsense}'), "its header is not JSON"),
    "a header that is a list": (framed("[]"), "its header is no JSON object"),
    "a header nested without end": (framed("[" * 200_000), "its header is not JSON"),
    "a header in UTF-16": (framed('{"a": 1}'.encode("utf-16")), "its header is not JSON"),
    "a name that is half a character": (framed(HALF, b"0000"), r"'a\\ud800' is no text"),
    "a name that would colour the terminal": (
        holding(entry("\x1b[31mred")),
        r"extra \(1\):\n  '\\x1b\[31mred' \[1\]",
    ),
    "metadata that is a list": (framed('{"__metadata__": [1]}'), "its metadata are no texts by name"),
    "a tensor listed twice": (holding(entry("a"), entry("a")), "'a' is listed twice in its header"),
    "a dtype listed twice": (
        framed('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"0000"),
        "'dtype' is listed twice in its header",
    ),
    "an entry without a shape": (framed('{"a":{"dtype":"F32","data_offsets":[0,4]}}', b"0000"), "'a' is not described"),
    "an entry that is a number": (framed('{"a":4}'), "'a' is not described by dtype, shape and data_offsets"),
    # -- safetensors: where the tensors lie
    "cut in its data": (lambda folder: cut(folder / SINGLE, -100), r"is truncated or damaged \('.*' reaches beyond"),
    "offsets beyond the end": (holding(entry(offsets=(4, 8))), r"damaged \('a' reaches beyond its end\)"),
    "offsets in reverse": (holding(entry(offsets=(4, 0))), r"'a' needs 4 bytes, and has -4"),
    "an offset below 0": (holding(entry(offsets=(-4, 0))), "'a' are not numbers from 0 upward"),
    "an offset of a fraction": (holding(entry(offsets=(0.0, 4))), "'a' are not numbers from 0 upward"),
    "an offset of 9,999 digits": (
        framed('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,' + "9" * 9999 + "]}}", b"0000"),
        "its header is not JSON",
    ),
    "three offsets": (holding(entry(offsets=(0, 4, 8))), "'a' are not numbers from 0 upward"),
    "tensors that overlap": (holding(entry("a"), entry("b", offsets=(2, 6)), data=b"000000"), "'a' and 'b' overlap"),
    "tensors in one place": (holding(entry("a"), entry("b")), "'a' and 'b' overlap"),
    "a hole between tensors": (
        holding(entry("a"), entry("b", offsets=(8, 12)), data=b"0" * 12),
        "'a' and 'b' have bytes of no tensor between them",
    ),
    "bytes behind the last tensor": (holding(entry(), data=b"00000000"), "4 bytes follow its last tensor"),
    # -- safetensors: shapes and dtypes
    "a shape of a terabyte in four bytes": (
        holding(entry(shape=(1 << 38,))),
        "needs 1,099,511,627,776 bytes, and has 4",
    ),
    "a terabyte that is not there": (
        holding(entry(shape=(1 << 38,), offsets=(0, 1 << 40))),
        "'a' reaches beyond its end",
    ),
    "a shape of 2**80": (holding(entry(shape=(1 << 40, 1 << 40))), "'a' is too large for any memory"),
    "nothing of 2**80": (
        holding(entry(shape=(0, 1 << 40, 1 << 40), offsets=(0, 0)), data=b""),
        "too large for any memory",
    ),
    "sixty-five axes": (holding(entry(shape=(1,) * 65)), "too large for any memory"),
    "a shape that is true": (holding(entry(shape=(True,))), "'a' are not numbers from 0 upward"),
    "a shape too small": (holding(entry(shape=(1, 0))), "'a' needs 0 bytes, and has 4"),
    "numbers of 8 bits": (
        holding(entry(dtype="F8_E4M3", shape=(4,))),
        "'a' of the dtype 'F8_E4M3', which is not supported; dequantise the weights first",
    ),
    "complex numbers": (holding(entry(dtype="C64"), data=b"0" * 8), "'a' of the dtype 'C64', which is not supported"),
    "a dtype of the future": (holding(entry(dtype="Q4")), "'a' of the dtype 'Q4', which is not supported"),
    "a dtype that is a list": (holding(entry(dtype=["F32"])), r"the dtype \"\['F32'\]\", which is not supported"),
    # -- shards and their index
    "a shard above the folder": (
        index(lambda names: names.update({EMBEDDING: "../secret"})),
        r"names '\.\./secret', which",
    ),
    "a shard from the root": (
        index(lambda names: names.update({EMBEDDING: "/etc/passwd"})),
        "names '/etc/passwd', which",
    ),
    "a shard up and down": (
        index(lambda names: names.update({EMBEDDING: "a/../../b"})),
        "names 'a/../../b', which does not lie in the folder itself",
    ),
    "the folder above as a shard": (
        index(lambda names: names.update({EMBEDDING: ".."})),
        r"names \.\., which the folder",
    ),
    "a shard without a name": (index(lambda names: names.update({EMBEDDING: ""})), "names '', which does not lie in"),
    "a shard that is missing": (
        index(lambda names: names.update({EMBEDDING: "model-9.safetensors"})),
        r"index\.json names model-9\.safetensors, which the folder lacks: download it again",
    ),
    "a shard of an endless name": (
        index(lambda names: names.update({EMBEDDING: "a" * 5000})),
        "names 'a{100}.u2026', which",
    ),
    "a shard of a nul": (
        index(lambda names: names.update({EMBEDDING: "a\0b"})),
        r"names 'a\\x00b', which the folder lacks",
    ),
    "a shard of half a character": (
        index(lambda names: names.update({EMBEDDING: "a\ud800"})),
        r"names 'a\\ud800', which the folder lacks",
    ),
    "a tensor the shards lack": (
        index(lambda names: names.update({"\x07": names[EMBEDDING]})),
        r"disagree on 1 tensors: '\\x07'",
    ),
    "a tensor the index lacks": (
        index(lambda names: names.pop(EMBEDDING) and None),
        f"disagree on 1 tensors: {EMBEDDING}",
    ),
    "a tensor in two shards": (twice, "is listed twice"),
    "a tensor twice in the index": (
        index(lambda names: json.dumps({"weight_map": {"b": names[EMBEDDING]}}).replace('{"b"', '{"b": "x", "b"')),
        "b is listed twice",
    ),
    "an empty index": (index(lambda names: ""), r"index\.json is not JSON"),
    "an index that is a list": (index(lambda names: "[]"), r"index\.json is not an index of shards"),
    "an index without names": (index(lambda names: "{}"), r"index\.json is not an index of shards"),
    "an index of numbers": (index(lambda names: '{"weight_map": {"a": 1}}'), r"index\.json is not an index of shards"),
    "an index nested without end": (
        index(lambda names: '{"a":' * 200_000),
        r"index\.json is not JSON.*nested too deep",
    ),
    "an index of a gigabyte": (
        lambda folder: (shards(folder), endless(INDEX, 1 << 30)(folder)),
        r"has 1,073,741,824 bytes, and such files have 67,108,864 at most",
    ),
    "a shard that is cut": (lambda folder: cut(shards(folder)[1], -4), r"model-00002-of-.* is truncated or damaged"),
    # -- links
    "weights that are a link": (link(SINGLE), r"model\.safetensors is a link to .*/secret, out of the model's folder"),
    "a config that is a link": (link("config.json"), r"config\.json is a link to .*/secret"),
    "a tokenizer that is a link": (
        link("vocab.txt"),
        r"vocab\.txt is a link to .*/secret, .* put a copy of the file in its",
    ),
    "a shard that is a link": (shard_elsewhere, r"model-00002-of-.* is a link to .*/secret"),
    "a folder that is a link": (folder_elsewhere, r"1_Pooling/config\.json is a link to .*/secret/config\.json"),
    # -- pickles
    "a pickle that would run code": (pickled, r"pytorch_model\.bin names 'os\.system'.*neither imported nor called"),
    # -- config.json
    "no JSON": (file("config.json", "{"), r"config\.json is not JSON"),
    "an empty config": (file("config.json", ""), r"config\.json is not JSON"),
    "a config that is a list": (file("config.json", "[1]"), r"config\.json must hold a JSON object, not list"),
    "a config in Latin-1": (
        file("config.json", b'{"a": "\xff"}'),
        r"config\.json is not text in UTF-8: byte 7 is 0xff",
    ),
    "a config nested without end": (
        file("config.json", '{"a":' * 200_000),
        r"config\.json is not JSON.*nested too deep",
    ),
    "a config of a gigabyte": (endless("config.json", 1 << 30), "has 1,073,741,824 bytes, and such files have"),
    "an unknown family": (
        config(model_type="brt"),
        "'brt' are not supported; the nearest is 'bert'; those that are: bert,",
    ),
    "a family like none": (config(model_type="gpt9"), "'gpt9' are not supported; those that are: bert,"),
    "a family that is a number": (config(model_type=7), r"config\.json names no model_type"),
    "no family": (config(model_type=None), r"config\.json names no model_type"),
    "a number for the classes": (config(architectures=7), "architectures must be a list of names"),
    "numbers for the classes": (config(architectures=[7]), "architectures must be a list of names"),
    "an unknown activation": (config(hidden_act="swoosh"), "swoosh"),
    "a number for a text": (config(hidden_act=7), "hidden_act must be a text, not 7"),
    "heads that do not divide": (
        config(num_attention_heads=5),
        "hidden_size 32 is not divisible by num_attention_heads 5",
    ),
    "no heads at all": (
        config(num_attention_heads=0),
        "num_attention_heads must be a whole number from 1 to .*, not 0",
    ),
    "a width missing": (config(hidden_size=None), "must have the numbers hidden_size"),
    "a width that is true": (config(hidden_size=True), "hidden_size must be a whole number from 1 to .*, not True"),
    "a width that is a text": (config(hidden_size="32"), "hidden_size must be a whole number from 1 to .*, not '32'"),
    "a width beyond all": (config(hidden_size=1 << 70), "hidden_size must be a whole number from 1 to 2,147,483,647"),
    "a billion layers": (
        config(num_hidden_layers=10**9),
        "num_hidden_layers must be a whole number from 1 to 1,000, not",
    ),
    "types below 0": (config(type_vocab_size=-1), "type_vocab_size must be a whole number from 0 to .*, not -1"),
    "an epsilon that is none": (config(layer_norm_eps=float("nan")), "layer_norm_eps must be a finite number, not nan"),
    "a huge table of tokens": (
        config(vocab_size=2 * 10**9),
        rf"{EMBEDDING} \[{len(WORDS)}, 32\] -> .*: expected \[2000000000, 32\]",
    ),
    "labels not numbered": (config(id2label={"0": "a", "2": "b"}), "id2label must number the labels from 0, not"),
    "labels by name": (config(id2label={"x": "a"}), "id2label must number the labels from 0"),
    "labels in a list": (config(id2label=["a", "b"]), "id2label must number the labels from 0"),
    "more labels than the head": (
        config(id2label={str(i): f"{i}" for i in range(3)}),
        r"classifier\.weight \[2, 32\] -> head/kernel: expected \[3, 32\]",
    ),
    "a billion labels": (
        config(id2label=None, num_labels=10**12),
        "num_labels must be a number from 1 to 1,048,576, not",
    ),
    # -- tensors that are not the model's
    "whole numbers for weights": (
        tensors({EMBEDDING: np.ones((len(WORDS), 32), np.int8)}),
        "int8 -> embeddings/token/embedding: expected floating-point numbers",
    ),
    "weights of DistilBERT": (
        another_family("distilbert"),
        "the names are those of distilbert: is model_type in config",
    ),
    "weights of RoBERTa": (
        lambda folder: (another_family("roberta")(folder), renamed(lambda name: f"roberta.{name}")(folder)),
        "the names are those of roberta, xlm-roberta, camembert: is model_type in config",
    ),
    "weights of a family unknown": (renamed(lambda name: f"x.{name}.y"), "the names look like those of another family"),
    "weights behind a prefix": (renamed(lambda name: f"electra.{name}"), r"this family behind the prefix 'electra\.'"),
    # -- tokenizers
    "a vocabulary larger than the embedding": (
        lambda folder: (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "one\nmore\n"),
        f"the tokenizer has the token more of id {len(WORDS) + 1}, and the model embeds {len(WORDS)}: they are not",
    ),
    "a vocabulary in Latin-1": (
        file("vocab.txt", b"[PAD]\n[UNK]\n\xe9\n"),
        r"vocab\.txt is not text in UTF-8: byte 12",
    ),
    "a vocabulary of a gigabyte": (endless("vocab.txt", 1 << 30), "has 1,073,741,824 bytes, and such files have"),
    "a tokenizer that is none": (file("tokenizer.json", "{}"), r"tokenizer\.json is not a tokenizer"),
    "a switch that is a text": (file("tokenizer_config.json", '{"do_lower_case": "x"}'), "make no tokenizer"),
    "a length that is a text": (
        file("tokenizer_config.json", '{"model_max_length": "x"}'),
        "say 'x' for the most tokens of a text: no number",
    ),
    "a side that is none": (
        file("tokenizer_config.json", '{"truncation_side": "up"}'),
        "must be left or right, not 'up'",
    ),
    "a special token without a text": (file("tokenizer_config.json", '{"cls_token": {"x": 1}}'), "must be a text, not"),
}


@pytest.fixture(scope="module")
def sound(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two labels, which loads."""
    model, variables = load(tiny.pooler)
    model = model.attach(classifier(2, CONFIG))
    head = {"kernel": np.ones((32, 2), np.float32), "bias": np.zeros(2, np.float32)}
    model = replace(model, info=replace(model.info, labels=("no", "yes")))
    variables = {"params": {**variables["params"], "head": head}}
    folder = save(tmp_path_factory.mktemp("sound") / "model", model, variables)
    use(folder)  # what is imported and kept for good is not a broken folder's
    return folder


def use(folder: Path) -> None:
    """All that a command does with a model before it computes."""
    model, _ = load(folder)
    model.processor(["where is my parcel"])


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error_in_bounded_memory(name: str, sound: Path, tmp_path: Path) -> None:
    spoil, says = CASES[name]
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    spoil(folder)
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            use(folder)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = str(caught.value)
    assert re.search(says, said), said
    assert all(line.isprintable() for line in said.splitlines()) and len(said) < 12_000
    assert held < 4 * MIB
    assert not (folder / "made").exists()


def test_there_are_many() -> None:
    assert len(CASES) >= 30 and len({says for _, says in CASES.values()}) > 60


# -- links that are followed ---------------------------------------------------------------------------------------


def test_links_of_the_hubs_cache_and_links_inside_are_followed(sound: Path, tmp_path: Path) -> None:
    """`snapshots/<commit>/config.json` is a link to `blobs/<hash>`; the cache itself may lie behind a link, too."""
    cache = tmp_path / "disk" / "models--org--name"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(sound.iterdir())):
        shutil.copyfile(path, cache / "blobs" / str(i))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(i))
    use(snapshot)
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    use(tmp_path / "cache" / "models--org--name" / "snapshots" / "0123")
    (snapshot / "vocab.txt").rename(snapshot / "words")
    (snapshot / "vocab.txt").symlink_to("words")
    use(snapshot)
    (snapshot / "words").unlink()
    (snapshot / "words").symlink_to(cache / "refs")
    (cache / "refs").write_bytes((sound / "vocab.txt").read_bytes())
    with pytest.raises(InputError, match=r"vocab\.txt is a link to .*refs, out of the model's folder"):
        use(snapshot)


@pytest.mark.parametrize("target", ["/dev/zero", "pipe", "folder", "gone", "itself"])
def test_a_link_to_what_is_no_file_is_no_file(sound: Path, tmp_path: Path, target: str) -> None:
    """A device, a pipe or a circle is never opened."""
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, says in ((SINGLE, "holds no model.safetensors or"), ("config.json", "holds no config.json")):
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name if target == "itself" else tmp_path / target)
        with pytest.raises(InputError, match=says):
            load(folder)


# -- what is odd, and no fault -------------------------------------------------------------------------------------


def test_fewer_words_than_rows_are_no_fault(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    words = (folder / "vocab.txt").read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join(words[:-3]) + "\n")
    use(folder)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_familys_own_weights_are_never_said_to_be_anothers(kind: str, tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "own", kind=kind)
    tensors({"embeddings.LayerNorm.weight": None, "stranger": np.ones(1, np.float32)})(folder)
    with pytest.raises(InputError, match=r"(?s)missing \(1\).*extra \(1\)") as caught:
        load(folder)
    assert "is model_type" not in str(caught.value)
