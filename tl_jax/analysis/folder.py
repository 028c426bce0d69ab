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
from tl_jax.manifest import machine_changes, read_json, write_json


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
        ours = {file.name for file in (self.cells, self.table_file, self.picture)}
        ours |= {f".{name}.partial" for name in (*ours, self.definition_file.name)}
        if not self.path.is_dir() or all(path.name in ours for path in self.path.iterdir()):  # or torn by a kill
            return
        if not self.definition_file.is_file():
            raise InputError(f"--out {self.path} holds something that is not a comparison; choose another folder")
        if not resume and not overwrite:
            raise InputError(
                f"--out {self.path} holds a comparison already: --resume goes on with it, --overwrite replaces it, "
                "or choose another --out"
            )

    def begin(self, definition: Mapping[str, Any], *, resume: bool, say: Callable[[str], object]) -> None:
        """Make the folder, or go on with the one that is there; `say` hears if that was made on another machine kind.

        Raises `InputError` if it is a comparison on other data, of another model, task or recipe, or with other
        settings; methods, sizes and seeds may be added to.
        """
        definition = dict(definition)
        going_on = resume and self.definition_file.is_file()
        if going_on:
            before = self._checked(definition)
            definition["recipes"] = {**before["recipes"], **definition["recipes"]}
            if changed := machine_changes(before["machine"], definition["machine"]):
                say(f"note: this is another kind of machine ({changed}), so cells may differ by rounding")
        try:
            if not going_on:
                # The definition goes first and comes before the cells: without it there is nothing to go on with.
                for path in (self.definition_file, self.cells, self.table_file, self.picture):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.definition_file, definition)
            self.cells.mkdir(exist_ok=True)
        except OSError as e:
            raise InputError(f"cannot write the comparison to {self.path}: {e.strerror or e}") from None

    def _checked(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """The definition that is there, which `definition` must not contradict."""
        before: dict[str, Any] = read_json(self.definition_file)
        parts = ("data", "model", "task")
        differences = [f"the {name} changed since it began" for name in parts if before.get(name) != definition[name]]
        if ("test" in before.get("data", {})) != ("test" in definition["data"]):
            differences[0] = "it began with other evaluation data: --eval-data decides what is scored"
        differences += [
            f"what {method} does by itself changed since it began"
            for method, recipe in definition["recipes"].items()
            if before.setdefault("recipes", {}).get(method, recipe) != recipe
        ]
        settings = before.get("settings", {})
        differences += [
            f"--{name.replace('_', '-')} is {_told(value)}, the comparison has {_told(settings.get(name))}"
            for name, value in definition["settings"].items()
            if settings.get(name) != value
        ]
        if differences:
            raise InputError(
                f"cannot resume {self.path}, another comparison:\n  "
                + "\n  ".join(differences)
                + "\nchoose another --out, or --overwrite"
            )
        return before

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


def _told(value: Any) -> str:
    return "not given" if value is None else repr(value)


def _file_name(method: str) -> str:
    """A method as part of a file's name: distinct methods stay distinct."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.,=]", lambda m: f"%{ord(m.group()):02X}", part) for part in _halves(method))


def _halves(method: str) -> list[str]:
    name, colon, parameters = method.partition(":")
    return [name, parameters] if colon else [name]
