from __future__ import annotations

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_jax.data.readers import PASSAGE, read_file
from tl_jax.errors import InputError


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nhello,1\n\nyou\u2028there,2\n"),
        ("a.CSV", '"text","label"\r\n"hello","1"\r\nyou\u2028there,2'),
        ("a.tsv", "text\tlabel\nhello\t1\n\nyou\u2028there\t2\n"),
        ("a.csv", b"\xef\xbb\xbf" + "text,label\nhello,1\n\nyou\u2028there,2\n".encode()),
        ("a.jsonl", '{"text":"hello","label":"1"}\n \n{"label":"2","text":"you\u2028there"}\n'),
        ("a.jsonl", '\ufeff{"text":"hello","label":"1"}\r\n\r\n{"text":"you\\u2028there","label":"2"}'),
    ],
)
def test_every_format_gives_the_same_data(tmp_path, name, content):
    dataset = read_file(write(tmp_path, name, content))
    assert dataset.columns == ("text", "label")
    assert dataset.column("text") == ["hello", "you\u2028there"]
    assert dataset.column("label") == ["1", "2"]
    assert dataset.name == "a"
    assert dataset.where(0).endswith(f"{name}, line {1 if 'jsonl' in name else 2}")
    same = read_file(write(tmp_path, "b.csv", "label,text\n1,hello\n2,you\u2028there\n"))
    assert same.fingerprint == dataset.fingerprint


def test_quoted_fields_span_lines_and_lines_stay_counted(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"one\ntwo, ""three""",1\nfour,2\n')
    dataset = read_file(path)
    assert dataset.column("text") == ['one\ntwo, "three"', "four"]
    assert [dataset.where(i).split()[-1] for i in range(2)] == ["2", "4"]


def test_long_fields_are_read_and_the_limit_of_the_process_stays(tmp_path):
    before = csv.field_size_limit()
    assert len(read_file(write(tmp_path, "a.csv", "text\n" + "x" * 200_000)).column("text")[0]) == 200_000
    assert csv.field_size_limit() == before


def test_unnamed_column_gets_a_name(tmp_path):
    assert read_file(write(tmp_path, "a.csv", ",text\n0,a\n")).columns == ("column_1", "text")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\na,1\nb,2,3\n", r"a\.csv, line 3: 3 fields, but the header has 2 \(text, label\); quote"),
        ("a.csv", 'text,label\n"x\ny",1\nb\n', r"line 4: 1 fields, but the header has 2"),
        (
            "a.csv",
            'text,label\na,1\n"b,2\nc,3\n',
            r"line 3: a quote opened in the row that starts here is never closed",
        ),
        ("a.csv", 'text,label\na,1\n"b" c,2\n', r"line 3: ',' or the end of the line must follow a closing quote"),
        ("a.csv", "text,text\na,1\n", r"line 1: the header names 'text' twice"),
        ("a.csv", "text;label\na;1\n", r"line 1: the header 'text;label' is a single column.*not ';'"),
        ("a.tsv", "text,label\na,1\n", r"separated by '\\t', not ','"),
        ("a.csv", "text,label\n", r"a\.csv has a header \(text, label\) and no rows"),
        ("a.csv", b"text,label\na,1\ncaf\xe9,2\n", r"line 3: the byte 0xe9 is not UTF-8"),
        ("a.csv", b"\xef\xbb\xbftext,label\na,1\ncaf\xe9,2\n", r"line 3: the byte 0xe9 is not UTF-8"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), r"is UTF-16; save it as UTF-8"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.jsonl", " \n\n", r"a\.jsonl is empty"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', r"line 2: not valid JSON: Expecting ',' delimiter \(column 13\)"),
        ("a.jsonl", '{"text": "a"}\n\n["b"]\n', r"line 3: expected an object such as .*, found a list"),
        ("a.jsonl", "3\n", r"line 1: expected an object such as .*, found a number"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', r"line 2: the key 'label' is missing \(the keys of"),
        ("a.jsonl", '{"text":"a","label":1}\n{"text":"b","lable":1}\n', r"line 2: the key 'label'.*; is 'lable' meant"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "label": 1}\n', r"line 2: the key 'label' is not in line 1"),
        ("a.jsonl", "{}\n", r"line 1: the object is empty"),
        ("a.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}\n', r"line 2: half of a surrogate pair"),
        ("a.xlsx", "x", r"cannot read '\.xlsx'; use \.csv, \.tsv, \.jsonl or \.txt"),
        ("data", "x", r"cannot read a file without extension; use"),
    ],
)
def test_bad_files_say_where_and_what(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        read_file(write(tmp_path, name, content))


def test_whole_surrogate_pairs_are_text(tmp_path):
    assert read_file(write(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00"}')).column("text") == ["😀"]


def test_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, "tickets.csv", "text\na\n")
    with pytest.raises(InputError, match=r"no such file or folder: .*tikets\.csv; did you mean 'tickets\.csv'"):
        read_file(tmp_path / "tikets.csv")
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"no such file or folder: .*date; did you mean 'data'"):
        read_file(tmp_path / "date")
    with pytest.raises(InputError, match="data is not a regular file"):
        read_file(tmp_path / "data")
    with pytest.raises(InputError, match=r"there is no folder '.*dta'; did you mean 'data'"):
        read_file(tmp_path / "dta" / "tickets.csv")


FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=5), extension=st.sampled_from(["csv", "tsv"]))
def test_what_csv_writes_is_what_is_read(tmp_path_factory, rows, extension):
    path = tmp_path_factory.mktemp("csv") / f"a.{extension}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="," if extension == "csv" else "\t", quoting=csv.QUOTE_ALL)
        writer.writerows([("text", "label"), *rows])
    dataset = read_file(path)
    assert list(zip(dataset.column("text"), dataset.column("label"), strict=True)) == rows


# -- plain text ----------------------------------------------------------------------------------------------------


def test_a_plain_text_is_cut_between_paragraphs(tmp_path):
    paragraphs = [f"{i}: " + "word " * (50 + 10 * i) for i in range(40)]
    path = tmp_path / "play.txt"
    path.write_text("\r\n\r\n".join(paragraphs), encoding="utf-8", newline="")
    found = read_file(path)
    assert found.columns == ("text",) and len(found) > 3
    passages = found.column("text")
    assert "\n\n".join(passages) == "\n\n".join(paragraphs)
    assert all(PASSAGE <= len(passage) + 2 < 2 * PASSAGE for passage in passages[:-1])
    lines = path.read_text("utf-8").split("\n")
    for i, passage in enumerate(passages):
        number = int(found.where(i).rpartition(" ")[2])
        assert lines[number - 1].rstrip("\r") == passage.split("\n")[0]


def test_a_text_without_paragraphs_is_cut_between_lines(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("\n".join("x" * 99 for _ in range(100)), encoding="utf-8")
    sizes = [len(passage) for passage in read_file(path).column("text")]
    assert sum(sizes) + len(sizes) - 1 == 100 * 100 - 1 and max(sizes) < 2 * PASSAGE + 100


def test_an_empty_text_is_no_data(tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text("\n \n")
    with pytest.raises(InputError, match="is empty"):
        read_file(path)
