"""Files to datasets: CSV, TSV, JSON lines and plain text, with messages that name the line at fault."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tl_jax.data.dataset import Dataset
from tl_jax.data.records import columns_of
from tl_jax.errors import InputError, did_you_mean

DELIMITERS = {".csv": ",", ".tsv": "\t"}
EXTENSIONS = (*DELIMITERS, ".jsonl", ".txt")
PASSAGE = 2000  # characters of a passage of plain text, at least


def read_file(path: str | Path) -> Dataset:
    """The data set in one file; the extension (.csv, .tsv, .jsonl or .txt) says how it is read.

    CSV and TSV need a header and follow RFC 4180 (quotes inside a quoted field are doubled); JSON lines hold one
    object a line, all with the same keys; a plain text is cut between paragraphs (blank lines) into passages, the
    column `text`. UTF-8, with or without a byte order mark; blank lines are skipped.

    Raises InputError when the file is missing, empty or malformed, naming the line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(missing(path))
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        kind = repr(extension) if extension else "a file without extension"
        raise InputError(f"{path}: cannot read {kind}; use {', '.join(EXTENSIONS[:-1])} or {EXTENSIONS[-1]}")
    text = _decode(path)
    if not text.strip():
        raise InputError(f"{path} is empty")
    columns: dict[str, Any]
    if extension == ".txt":
        columns, lines = _passages(text)
    else:
        columns, lines = _json_lines(path, text) if extension == ".jsonl" else _table(path, text, DELIMITERS[extension])
    return Dataset(columns, name=path.stem, source=str(path), lines=lines, folder=path.parent)


def missing(path: Path) -> str:
    """The message for a path that does not exist: the nearest files of its folder, or that the folder is missing."""
    if path.exists():
        return f"{path} is not a regular file"
    folder = path.parent
    if not folder.is_dir():
        siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        return f"no such file: {path}: there is no folder {str(folder)!r}{did_you_mean(folder.name, siblings)}"
    if path.suffix.lower() in EXTENSIONS:
        known = [p.name for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS]
    else:
        known = [p.name for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS or p.is_dir()]
    return f"no such file or folder: {path}{did_you_mean(path.name, sorted(known))}"


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is UTF-16; save it as UTF-8 (iconv -f utf-16 -t utf-8)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.object  # without the mark, if there was one: positions count from there
        line = at.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: the byte 0x{at[error.start]:02x} is not UTF-8; save the file as UTF-8 "
            "(from Latin-1: iconv -f latin1 -t utf-8)"
        ) from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift csv's limit of 131,072 characters a field, which is a setting of the whole process."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table(path: Path, text: str, delimiter: str) -> tuple[dict[str, list[str]], list[int]]:
    rows: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    with _long_fields():
        try:
            for row in reader:
                if row:  # a blank line is an empty row
                    rows.append(row)
                    lines.append(line)
                line = reader.line_num + 1
        except csv.Error as error:
            raise InputError(f"{path}, line {line}: {_csv_words(str(error), delimiter)}") from error
    header = _header(path, rows[0], lines[0], delimiter)
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(header):
            raise InputError(
                f"{path}, line {line}: {len(row)} fields, but the header has {len(header)} ({', '.join(header)})"
                + ("; quote a field that holds the delimiter" if len(row) > len(header) else "")
            )
    if len(rows) == 1:
        raise InputError(f"{path} has a header ({', '.join(header)}) and no rows")
    return {name: [row[k] for row in rows[1:]] for k, name in enumerate(header)}, lines[1:]


def _csv_words(message: str, delimiter: str) -> str:
    if message == "unexpected end of data":
        return "a quote opened in the row that starts here is never closed"
    if "expected after" in message:
        return f"{delimiter!r} or the end of the line must follow a closing quote; double the quotes inside a field"
    return message


def _header(path: Path, cells: list[str], line: int, delimiter: str) -> list[str]:
    header = [cell.strip() or f"column_{k}" for k, cell in enumerate(cells, start=1)]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise InputError(f"{path}, line {line}: the header names {', '.join(map(repr, sorted(twice)))} twice")
    if len(header) == 1:
        other = [mark for mark in (",", ";", "\t") if mark != delimiter and mark in header[0]]
        if other:
            raise InputError(
                f"{path}, line {line}: the header {header[0]!r} is a single column; fields of a {path.suffix} file "
                f"are separated by {delimiter!r}, not {other[0]!r}"
            )
    return header


def _passages(text: str) -> tuple[dict[str, list[str]], list[int]]:
    """Whole paragraphs, joined until there are `PASSAGE` characters; twice as many end a passage at any line."""
    passages: list[str] = []
    starts: list[int] = []
    lines, start, size = [], 1, 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        lines.append(line)
        size += len(line) + 1
        if size >= 2 * PASSAGE or (size >= PASSAGE and not line.strip()):
            passages.append("\n".join(lines))
            starts.append(start)
            lines, start, size = [], number + 1, 0
    passages.append("\n".join(lines))
    starts.append(start)
    kept = [i for i, passage in enumerate(passages) if passage.strip()]
    return {"text": [passages[i].strip("\n") for i in kept]}, [starts[i] for i in kept]


def _json_lines(path: Path, text: str) -> tuple[dict[str, list[Any]], list[int]]:
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would also cut at U+2028 inside a text
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not valid JSON: {error.msg} (column {error.colno})") from error
        if not isinstance(record, dict):
            kind = {list: "a list", str: "a string", type(None): "null"}.get(type(record), "a number or boolean")
            raise InputError(f'{path}, line {number}: expected an object such as {{"text": …}}, found {kind}')
        if "\\ud" in line.lower() and any("\ud800" <= c <= "\udfff" for c in json.dumps(record, ensure_ascii=False)):
            raise InputError(f"{path}, line {number}: half of a surrogate pair (\\ud8xx without its partner)")
        records.append(record)
        lines.append(number)
    if not records[0]:
        raise InputError(f"{path}, line {lines[0]}: the object is empty")
    return columns_of(records, lambda i: f"{path}, line {lines[i]}" if i else f"line {lines[0]}"), lines
