"""Asks a run about texts or images: one JSON line each, with the label and the probability of every label.

Of a language model each line has the text and its continuation, the likeliest unless --temperature has it drawn.

Examples:

  tl-jax predict runs/tickets "where is my parcel?" "I was charged twice"
  tl-jax predict runs/tickets new.csv
  cut -f 2 inbox.tsv | tl-jax predict runs/tickets
  tl-jax predict runs/flowers rose.jpg holiday/
  tl-jax predict runs/plays "Once upon a time" --max-new-tokens 100 --temperature 0.8 --seed 1

Of a folder all images are asked about, also those in folders inside it. A text that begins with a dash goes after `--`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tl_jax.cli import console, flags
from tl_jax.cli.values import one_of
from tl_jax.errors import InputError, did_you_mean
from tl_jax.manifest import json_text

HELP = "ask a run about texts or images"
CHOICES = ("--batch-size", "--corrupt")
CONTINUING = ("--max-new-tokens", "--temperature", "--top-k", "--top-p", "--seed")
TAKES = ("--model", "--text-column", "--image-column", *CHOICES, *CONTINUING, "--format", "--verbose")
TABLES = (".csv", ".tsv", ".jsonl")  # files with columns; in any other a line is a text
AT_ONCE = 4096  # texts read before the first answer is printed
IMAGES_AT_ONCE = 256


def describe(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run_folder", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="texts; or one file, CSV, TSV, JSON lines or else a text on each line; or - or nothing: standard input; "
        "of a run on images their files, folders of them, files that name them or .npz files",
    )
    flags.add(
        parser,
        TAKES,
        defaults={
            "model": "where the run found them",
            "text_column": "the one trained on",
            "image_column": "inferred",
            "batch_size": "the run's",
            "corrupt": "the run's",
            "seed": "0",
            "format": "jsonl, or table",
        },
        words={"--seed": "decides what is drawn of a language model"},
        read={"--format": one_of("jsonl", "table")},
    )


def run(args: argparse.Namespace) -> int:
    """Predicts and prints, some texts at a time, in the order given."""
    source = _source(args.texts)
    column = getattr(args, "text_column", None)
    if column is not None and not (source and source.lower().endswith(TABLES)):
        raise InputError(f"--text-column {column} names a column of a file ({', '.join(TABLES)}), and none is given")
    console.say(f"tl-jax: opening {args.run_folder}; loading JAX")
    from tl_jax.run import open_run

    opened = open_run(args.run_folder, model=getattr(args, "model", None), say=console.say)
    other = "text" if opened.role == "image" else "image"
    if f"{other}_column" in args:
        raise InputError(f"--{other}-column is for runs on {other}s, and {args.run_folder} is one on {opened.role}s")
    asked: Iterator[Any]
    if opened.role == "image":
        asked, at_once = _images(args.texts, getattr(args, "image_column", None)), IMAGES_AT_ONCE
    else:
        texts = iter(args.texts) if source is None else _read(source, column or opened.text_column)
        asked, at_once = texts, AT_ONCE
    show = _table if getattr(args, "format", "jsonl") == "table" else _lines
    how = flags.given(args, CONTINUING)
    count = answered = 0
    while some := list(islice(asked, at_once)):
        drawn = {**how, "first": count} if how else {}
        if answers := opened.predict(some, **flags.given(args, CHOICES), **drawn):
            print(show(answers), flush=True)
        count, answered = count + len(some), answered + len(answers)
    if not answered:
        named = ", ".join(args.texts) if opened.role == "image" and args.texts else _named(source)
        raise InputError(f"{named} holds no {opened.role}" + (" that can be read" if count else ""))
    return 0


def _images(arguments: Sequence[str], column: str | None) -> Iterator[Any]:
    """The images that the arguments name, one after the other; without any the paths on standard input."""
    from tl_jax import data

    for argument in arguments or ["-"]:
        lowered = argument.lower()
        if os.path.isdir(argument):
            yield from data.image_files(Path(argument))
        elif argument == "-" or lowered.endswith(".txt"):
            yield from (line for line in _read(argument, "") if line)
        elif lowered.endswith(TABLES) or ".npz" in lowered:
            dataset = data.to_score(data.open(argument))
            columns = data.infer_image_columns(dataset, column, labelled=False)
            yield from data.pictures(dataset, columns.input)
        else:
            yield argument


def _source(texts: list[str]) -> str | None:
    """The file that the arguments name, `-` for standard input, or None where they are the texts themselves.

    Raises:
        InputError: one argument that looks like a file of data, and no such file.
    """
    if texts in ([], ["-"]):
        return "-"
    if len(texts) > 1:
        return None
    (text,) = texts
    if os.path.exists(text) and not os.path.isdir(text):  # a pipe of the shell's too
        return text
    if text.lower().endswith((*TABLES, ".txt")) and not any(character.isspace() for character in text):
        folder = os.path.dirname(text) or "."
        names = os.listdir(folder) if os.path.isdir(folder) else []
        raise InputError(f"no file {text!r}" + (did_you_mean(os.path.basename(text), names) if names else ""))
    return None


def _read(source: str, column: str) -> Iterator[str]:
    """The texts of a file, in its order: a column of a table, or else its lines."""
    if source.lower().endswith(TABLES):
        from tl_jax import data

        yield from data.texts(data.open(source, split="train"), column)
        return
    if source == "-" and sys.stdin.isatty():
        console.say("a text on each line; Ctrl-D ends")
    with nullcontext(sys.stdin.buffer) if source == "-" else _opened(source) as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(f"{_named(source)}, line {number}: not UTF-8 text") from error


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from None


def _named(source: str | None) -> str:
    return "standard input" if source == "-" else repr(source)


def _lines(answers: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(map(json_text, answers))


def _table(answers: Iterable[Mapping[str, Any]]) -> str:
    return console.table(
        (answer["text"], answer["continuation"])
        if "continuation" in answer
        else (
            answer["label"],
            float(answer["probabilities"][str(answer["label"])]),
            answer.get("text", answer.get("image")),
        )
        for answer in answers
    )
