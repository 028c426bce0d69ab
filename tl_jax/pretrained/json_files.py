"""JSON and other small files of a model's folder, as the Hugging Face ecosystem writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tl_jax.errors import InputError

_MAX_BYTES = 1 << 26  # the largest there are, vocabularies and indexes of shards, have a tenth of it


def read_json(path: Path | None) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file (None). Raises `InputError` if it holds anything else."""
    if path is None:
        return {}
    content = read_value(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def read_value(path: Path, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What a JSON file holds; `pairs` makes something of each object's names and values.

    Raises `InputError` for a file that is missing, is no JSON or is larger than any such file is.
    """
    text = read_text(path, _MAX_BYTES)
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise InputError(f"{path} is not JSON of a model: it is nested too deep") from None
    except InputError:
        raise
    except ValueError as e:
        raise InputError(f"{path} is not JSON: {e}") from None


def read_text(path: Path, most: int) -> str:
    """A file's text; raises `InputError` for one that is missing, no UTF-8 or of more than `most` bytes."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        if (size := path.stat().st_size) > most:
            raise InputError(f"{path} has {size:,} bytes, and such files have {most:,} at most")
        return path.read_bytes().decode("utf-8")
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from None
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is not text in UTF-8: byte {e.start} is 0x{e.object[e.start]:02x}") from None


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Write `content` as transformers does: indented, keys sorted, one newline at the end."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def copy(path: Path, target: Path) -> None:
    """Copy a file that belongs to a model; raises `InputError` if it is gone since the model was loaded."""
    try:
        shutil.copyfile(path, target)
    except FileNotFoundError:
        raise InputError(f"{path}, which belongs to the model, is gone since it was loaded") from None
