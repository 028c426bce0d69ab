"""One door for data: a file, a folder of splits, or what is already in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from tl_jax.data.dataset import Dataset
from tl_jax.data.readers import EXTENSIONS, missing, read_file
from tl_jax.data.records import columns_of
from tl_jax.errors import InputError, did_you_mean

ORDER = ("train", "validation", "test")
NAMES = {split: split for split in ORDER} | dict.fromkeys(("valid", "val", "dev"), "validation")


class Splits(Mapping[str, Dataset]):
    """The splits that exist, of `train`, `validation` and `test`, in that order. Read-only.

    Asking for one that does not exist raises InputError with those that do. `name` is a short name of the whole
    (a file's stem or a folder's name), `source` says where it comes from.
    """

    def __init__(self, splits: Mapping[str, Dataset], *, name: str = "data", source: str = "in memory") -> None:
        self._splits = {key: splits[key] for key in ORDER if key in splits}
        self.name = name
        self.source = source

    def __getitem__(self, split: str) -> Dataset:
        found: Dataset | None = self.get(split)
        if found is None:
            raise InputError(f"{self.source} has no split {split!r}; it has {', '.join(self._splits)}")
        return found

    def __contains__(self, split: object) -> bool:
        return isinstance(split, str) and self.get(split) is not None

    def get(self, split: str, default: Any = None) -> Any:
        """The split, or `default` when there is none of that name. `valid`, `val` and `dev` are `validation`."""
        return self._splits.get(NAMES.get(split, split), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        return f"Splits({self.name!r}, " + ", ".join(f"{key}: {len(ds)}" for key, ds in self._splits.items()) + ")"

    @property
    def only(self) -> Dataset:
        """The one split there is. Raises InputError, asking for a choice, when there are several."""
        if len(self._splits) > 1:
            raise InputError(f"{self.source} has the splits {', '.join(self._splits)}; choose one with --split")
        return next(iter(self._splits.values()))


@overload
def open(source: Any, *, split: None = None) -> Splits: ...
@overload
def open(source: Any, *, split: str) -> Dataset: ...
def open(source: Any, *, split: str | None = None) -> Splits | Dataset:
    """The splits in `source`, or the one named `split`.

    `source` is
    - a .csv, .tsv or .jsonl file: the split `train`,
    - a folder with files named train, validation (or valid, val, dev) and test, whichever exist; other files in it
      are left alone,
    - a list of dicts with equal keys, a list of (text, label) pairs, a dict of equally long columns, or a `Dataset`:
      the split `train`,
    - a mapping from names of splits to any of these.

    Raises InputError for what is missing, empty, malformed or none of these.
    """
    splits = _splits(source)
    return splits if split is None else splits[split]


def _splits(source: Any) -> Splits:
    if isinstance(source, Splits):
        return source
    if isinstance(source, str | os.PathLike):
        return _path(Path(source).expanduser())
    if isinstance(source, Mapping) and any(key in NAMES for key in source):
        return _mapping(source)
    dataset = source if isinstance(source, Dataset) else _in_memory(source)
    if not len(dataset):
        raise InputError(f"{dataset.source}: there are no examples")
    return Splits({"train": dataset}, name=dataset.name, source=dataset.source)


def _path(path: Path) -> Splits:
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise InputError(missing(path))
    dataset = read_file(path)
    return Splits({"train": dataset}, name=dataset.name, source=dataset.source)


def _folder(folder: Path) -> Splits:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
    found: dict[str, Path] = {}
    for path in files:
        key = NAMES.get(path.stem.lower())
        if key is None:
            continue
        if key in found:
            raise InputError(f"{folder}: both {found[key].name} and {path.name} are the split {key!r}; keep one")
        found[key] = path
    if not files:
        raise InputError(f"{folder} holds no data files ({', '.join(EXTENSIONS)})")
    if not found:
        names = ", ".join(p.name for p in files[:12]) + (", …" if len(files) > 12 else "")
        raise InputError(f"{folder} holds no file named train, validation or test; name one of its files: {names}")
    name = folder.resolve().name or "data"
    return Splits({key: read_file(path) for key, path in found.items()}, name=name, source=str(folder))


def _mapping(source: Mapping[Any, Any]) -> Splits:
    splits: dict[str, Dataset] = {}
    for name, value in source.items():
        if name not in NAMES:
            raise InputError(f"{name!r} is not the name of a split{did_you_mean(str(name), ORDER)}")
        if NAMES[name] in splits:
            raise InputError(f"{name!r} gives the split {NAMES[name]!r} a second time")
        splits[NAMES[name]] = _splits(value).only
    return Splits(splits)


def _in_memory(source: Any) -> Dataset:
    if isinstance(source, Mapping) and source:
        for name, values in source.items():
            if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str | bytes):
                raise InputError(f"in memory: the column {name!r} is a {type(values).__name__}, not a list of values")
        return Dataset(source)
    if not isinstance(source, Sequence) or isinstance(source, bytes):
        raise InputError(
            f"cannot read examples from a {type(source).__name__}; give a path, a list of dicts, a list of "
            "(text, label) pairs, a dict of columns or a Dataset"
        )
    if not source:
        raise InputError("in memory: there are no examples")
    kind = _kind(source[0])
    for i, example in enumerate(source):
        if kind is None or _kind(example) != kind:
            expected = kind or "a dict or a (text, label) pair"
            raise InputError(f"in memory, example {i}: expected {expected}, found {_brief(example)}")
    if kind == "a dict":
        return Dataset(columns_of(source, lambda i: f"in memory, example {i}" if i else "example 0"))
    return Dataset({"text": [pair[0] for pair in source], "label": [pair[1] for pair in source]})


def _kind(example: Any) -> str | None:
    if isinstance(example, Mapping):
        return "a dict" if example else None
    pair = isinstance(example, tuple | list) and len(example) == 2 and isinstance(example[0], str)
    return "a (text, label) pair" if pair else None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
