"""`tl-jax predict`: where the texts come from, and one line for each."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tl_jax.cli import predict
from tl_jax.cli.main import main


def standard_input(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))


def test_texts_as_arguments(behind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "runs/x", "where is it?", "a - dash", "--", "--lr"]) == 0
    assert behind.opened == [("runs/x", None)]
    assert behind.predicted == [["where is it?", "a - dash", "--lr"]]
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["where is it?", "a - dash", "--lr"]
    assert json.loads(lines[0]) == {
        "text": "where is it?",
        "label": "äh",
        "probabilities": {"äh": 0.75, "no": 0.25},
    }
    assert "äh" in lines[0]  # readable, not escaped
    assert err == "tl-jax: opening runs/x; loading JAX\nas it opens\n"


def test_how_a_language_model_continues(
    behind: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict, "AT_ONCE", 2)
    how = ["--max-new-tokens", "9", "--temperature", "0.8", "--top-k", "5", "--top-p", "90%", "--seed", "7"]
    assert main(["predict", "runs/x", "once", "upon", "a time", *how]) == 0
    drawn = {"max_new_tokens": 9, "temperature": 0.8, "top_k": 5, "top_p": 0.9, "seed": 7}
    assert behind.predicted == [["once", "upon"], ["a time"]]
    assert behind.drawn == [{**drawn, "first": 0}, {**drawn, "first": 2}]
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[2]) == {"text": "a time", "continuation": " and so on"}


@pytest.mark.parametrize("argument", [[], ["-"]])
def test_standard_input(behind: Any, monkeypatch: pytest.MonkeyPatch, argument: list[str]) -> None:
    standard_input(monkeypatch, b"one\n\ntwo, with a comma\r\nlast")
    assert main(["predict", "runs/x", *argument]) == 0
    assert behind.predicted == [["one", "", "two, with a comma", "last"]]  # a line out for every line in


def test_one_argument_that_names_a_file_is_a_file(behind: Any, tmp_path: Path) -> None:
    file = tmp_path / "inbox"
    file.write_bytes(b"\xef\xbb\xbfone\ntwo\n")
    assert main(["predict", "runs/x", str(file)]) == 0
    assert main(["predict", "runs/x", str(file), "a text"]) == 0
    assert behind.predicted == [["one", "two"], [str(file), "a text"]]


def test_a_pipe_that_the_shell_names_is_a_file(behind: Any) -> None:
    read, write = os.pipe()
    os.write(write, b"one\ntwo\n")
    os.close(write)
    assert main(["predict", "runs/x", f"/dev/fd/{read}"]) == 0
    os.close(read)
    assert behind.predicted == [["one", "two"]]


def test_what_utf_8_cannot_hold_comes_back(behind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As an argument in Latin-1 is given by Python."""
    assert main(["predict", "runs/x", "caf\udce9"]) == 0
    out = capsys.readouterr().out
    assert "\\udce9" in out and json.loads(out)["text"] == "caf\udce9"
    assert main(["predict", "runs/x", "caf\udce9", "--format", "table"]) == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("new.csv", 'id,message,other\n1,"one, two",x\n2,three,y\n'),
        ("new.TSV", "id\tmessage\tother\n1\tone, two\tx\n2\tthree\ty\n"),
        ("new.jsonl", '{"message": "one, two", "other": "x"}\n{"message": "three", "other": "y"}\n'),
    ],
)
def test_a_file_of_columns(behind: Any, tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    assert main(["predict", "runs/x", str(file)]) == 0
    assert main(["predict", "runs/x", str(file), "--text-column", "other"]) == 0
    assert behind.predicted == [["one, two", "three"], ["x", "y"]]


def test_many_texts_are_answered_some_at_a_time(behind: Any, tmp_path: Path) -> None:
    file = tmp_path / "inbox.txt"
    texts = [f"text {n}" for n in range(2 * predict.AT_ONCE + 1)]
    file.write_text("\n".join(texts), encoding="utf-8")
    assert main(["predict", "runs/x", str(file)]) == 0
    assert [len(some) for some in behind.predicted] == [predict.AT_ONCE, predict.AT_ONCE, 1]
    assert [text for some in behind.predicted for text in some] == texts


def test_choices_reach_the_run(behind: Any) -> None:
    assert main("predict runs/x --model moved/minilm --batch-size 8 text".split()) == 0
    assert (behind.opened, behind.batch_size) == ([("runs/x", "moved/minilm")], 8)


def test_a_table_for_the_eye(behind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "runs/x", "one", "two", "--format", "table"]) == 0
    assert capsys.readouterr().out == "äh  0.7500  one\näh  0.7500  two\n"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (["inbx.csv"], "error: no file 'inbx.csv'; did you mean 'inbox.csv'?"),
        (["inbox.csv", "--text-column", "mesage"], "error: inbox.csv has no column 'mesage'; did you mean 'message'?"),
        (["a text", "--text-column", "message"], "error: --text-column message names a column of a file"),
        (["a text", "--image-column", "file"], "error: --image-column is for runs on images, and runs/x"),
        (["latin.txt"], "error: 'latin.txt', line 2: not UTF-8 text"),
        (["empty.txt"], "error: 'empty.txt' holds no text"),
        ([], "error: standard input holds no text"),
    ],
)
def test_mistakes(
    behind: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argument: list[str],
    said: str,
) -> None:
    standard_input(monkeypatch, b"")
    monkeypatch.chdir(tmp_path)
    Path("inbox.csv").write_text("message,label\none,a\n")
    Path("latin.txt").write_bytes(b"one\nd\xe9j\xe0 vu\n")
    Path("empty.txt").touch()
    assert main(["predict", "runs/x", *argument]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(said)
    assert not behind.predicted
