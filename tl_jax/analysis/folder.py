"""A comparison's folder: what it compares, and a file for every finished cell.

comparison.json  cells/<method>-<shots>-<seed>.json  table.json  curve.png
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tl_jax.analysis.cells import Cell, Scored
from tl_jax.analysis.results import Result
from tl_jax.errors import InputError
from tl_jax.manifest import read_json, write_json


class ComparisonFolder:
    """The places in the folder. A cell is in it whole or not at all, so a comparison can stop at any moment."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.definition_file = self.path / "comparison.json"
        self.table_file = self.path / "table.json"
        self.picture = self.path / "curve.png"
        self.cells = self.path / "cells"

    def check_free(self, *, resume: bool, overwrite: bool) -> None:
        """Raise `InputError` unless a comparison may be written here; touches nothing."""
        if resume and overwrite:
            raise InputError("--resume and --overwrite exclude each other: go on with the comparison, or replace it")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file; a comparison needs a folder")
        if not self.path.is_dir() or all(
            p.name == f".{self.definition_file.name}.partial" for p in self.path.iterdir()
        ):
            return
        if not self.definition_file.is_file():
            raise InputError(f"--out {self.path} holds something that is not a comparison; choose another folder")
        if not resume and not overwrite:
            raise InputError(
                f"--out {self.path} holds a comparison already: --resume goes on with it, --overwrite replaces it, "
                "or choose another --out"
            )

    def begin(self, definition: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder, or go on with the one that is there.

        Raises `InputError` if that is a comparison on other data, of another model or with other settings; methods,
        sizes and seeds may be added to.
        """
        if resume and self.definition_file.is_file():
            self._check_same(definition)
            return
        try:
            for path in (self.cells, self.table_file, self.picture):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            self.cells.mkdir(parents=True)
        except OSError as e:
            raise InputError(f"cannot write the comparison to {self.path}: {e.strerror or e}") from None
        write_json(self.definition_file, definition)

    def _check_same(self, definition: Mapping[str, Any]) -> None:
        before = read_json(self.definition_file)
        differences = [
            f"the {name} changed since it began" for name in ("data", "model") if before.get(name) != definition[name]
        ]
        settings = before.get("settings", {})
        differences += [
            f"--{name.replace('_', '-')} is {value!r}, the comparison has {settings.get(name)!r}"
            for name, value in definition["settings"].items()
            if settings.get(name) != value
        ]
        if differences:
            raise InputError(
                f"cannot resume {self.path}, another comparison:\n  "
                + "\n  ".join(differences)
                + "\nchoose another --out, or --overwrite"
            )

    def load(self, cell: Cell, say: Callable[[str], object]) -> Scored | None:
        """A finished cell; None if it is not, or cannot be read, which `say` is told."""
        path = self._file(cell)
        if not path.is_file():
            return None
        try:
            found = read_json(path)
            validation = found["validation"]
            result = Result.from_dict(found["result"], path)
            return Scored(result, None if validation is None else (float(validation[0]), float(validation[1])))
        except (InputError, TypeError, KeyError, IndexError, ValueError) as e:
            say(f"the cell {path} cannot be read and is run again: {e}")
            return None

    def save(self, cell: Cell, scored: Scored) -> None:
        """Keep a finished cell; raises `InputError` if the disk refuses."""
        validation = None if scored.validation is None else list(scored.validation)
        write_json(self._file(cell), {"result": scored.result.to_dict(), "validation": validation})

    def _file(self, cell: Cell) -> Path:
        size = "all" if cell.shots is None else cell.shots
        rate = "" if cell.rate is None else f"-lr={cell.rate:g}"
        return self.cells / f"{_file_name(cell.method)}-{size}-{cell.seed}{rate}.json"


def _file_name(method: str) -> str:
    """A method as part of a file's name: distinct methods stay distinct."""
    name, colon, parameters = method.partition(":")
    quoted = re.sub(r"[^A-Za-z0-9_.,=]", lambda match: f"%{ord(match.group()):02X}", parameters)
    return f"{name}{'-' if colon else ''}{quoted}"
