from __future__ import annotations

import numpy as np
import pytest

import tl_jax.data as data
from tl_jax.errors import InputError

CSV = "text,label\n{0},1\n"


def folder_of(tmp_path, *names):
    for name in names:
        lines = CSV if name.endswith("csv") else '{{"text": "{0}", "label": 1}}'
        (tmp_path / name).write_text(lines.format(name))
    return tmp_path


def test_a_file_is_the_train_split(tmp_path):
    splits = data.open(folder_of(tmp_path, "tickets.csv") / "tickets.csv")
    assert list(splits) == ["train"]
    assert splits.only is splits["train"]
    assert splits.name == splits["train"].name == "tickets"
    assert splits.source == str(tmp_path / "tickets.csv")


@pytest.mark.parametrize("validation", ["validation.csv", "valid.tsv", "val.jsonl", "dev.jsonl"])
def test_a_folder_has_its_named_splits(tmp_path, validation):
    if validation.endswith("tsv"):
        (tmp_path / validation).write_text("text\tlabel\nvalid.tsv\t1\n")
        folder_of(tmp_path, "train.jsonl", "test.csv", "other.csv", "README.md")
    else:
        folder_of(tmp_path, "train.jsonl", validation, "test.csv", "other.csv", "README.md")
    splits = data.open(str(tmp_path))
    assert list(splits) == ["train", "validation", "test"]
    assert splits["validation"].column("text") == [validation]
    assert splits["dev"] is splits["validation"] and "dev" in splits
    assert data.open(tmp_path, split="test").column("text") == ["test.csv"]
    assert splits.name == tmp_path.name
    with pytest.raises(InputError, match="has the splits train, validation, test; choose one with --split"):
        _ = splits.only


def test_an_absent_split_names_those_that_exist(tmp_path):
    folder_of(tmp_path, "train.csv", "test.csv")
    with pytest.raises(InputError, match="has no split 'validation'; it has train, test"):
        data.open(tmp_path, split="validation")
    splits = data.open(tmp_path)
    assert "validation" not in splits and splits.get("validation") is None and 3 not in splits


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no data files"),
        (("README.md",), "holds no data files"),
        (("books.csv", "dvd.jsonl"), "no file named train, validation or test; name one of its files: books.csv, dvd"),
        (("dev.csv", "val.jsonl"), "both dev.csv and val.jsonl are the split 'validation'"),
    ],
)
def test_bad_folders(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        data.open(folder_of(tmp_path, *names))


def test_missing_paths_name_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"did you mean 'tickets\.csv'"):
        data.open(folder_of(tmp_path, "tickets.csv") / "ticket.csv")


ROWS = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        [("a", 0), ("b", 1)],
        [["a", 0], ["b", 1]],
        {"text": ["a", "b"], "label": np.array([0, 1])},
        data.Dataset({"text": ["a", "b"], "label": [0, 1]}),
        {"train": ROWS},
    ],
)
def test_what_is_in_memory(source):
    splits = data.open(source)
    assert list(splits) == ["train"]
    assert [*splits["train"]] == ROWS
    assert data.open(splits) is splits


def test_a_mapping_of_splits_takes_anything(tmp_path):
    splits = data.open({"dev": [("x", 1)], "train": folder_of(tmp_path, "a.csv") / "a.csv"})
    assert list(splits) == ["train", "validation"]
    assert [len(ds) for ds in splits.values()] == [1, 1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "there are no examples"),
        ({"text": []}, "there are no examples"),
        (["a", "b"], r"example 0: expected a dict or a \(text, label\) pair, found 'a'"),
        ([{"text": "a"}, ("b", 1)], "example 1: expected a dict, found"),
        ([("a", 1), ("b", 1, 2)], r"example 1: expected a \(text, label\) pair"),
        ([{"text": "a", "label": 1}, {"text": "b"}], "example 1: the key 'label' is missing"),
        ({"text": "abc"}, "the column 'text' is a str, not a list"),
        ({"text": ["a"], "label": [1, 2]}, "'text' has 1, 'label' has 2"),
        ({"train": ROWS, "tset": ROWS}, "'tset' is not the name of a split; did you mean 'test'"),
        ({"val": ROWS, "dev": ROWS}, "'dev' gives the split 'validation' a second time"),
        (3, "cannot read examples from a int"),
        ({}, "cannot read examples from a dict"),
    ],
)
def test_bad_values_in_memory(source, message):
    with pytest.raises(InputError, match=message):
        data.open(source)
