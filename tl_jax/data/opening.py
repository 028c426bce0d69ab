"""One door for data: a file, a folder of splits, or what is already in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from tl_jax.data.dataset import Dataset
from tl_jax.data.image_files import image_folder, read_npz
from tl_jax.data.readers import EXTENSIONS, missing, read_file
from tl_jax.data.records import columns_of
from tl_jax.errors import InputError, did_you_mean
from tl_jax.pictures import Picture, is_pillow, is_pixels

ORDER = ("train", "validation", "test")
NPZ = ".npz"
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
    - a .csv, .tsv, .jsonl or .txt file: the split `train`,
    - a folder with files named train, validation (or valid, val, dev) and test, whichever exist; other files in it
      are left alone,
    - a folder of images, a subfolder for each class; or such folders, named as splits are,
    - an .npz file with arrays `images` and `labels`, or `train_images`, `train_labels` and so on; of several sets in
      one file (`usps_train_images`) one is named behind a colon: "digits.npz:usps",
    - a list of dicts with equal keys, a list of (text, label) or (image, label) pairs, a dict of equally long columns,
      or a `Dataset`: the split `train`,
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
    file, colon, part = str(path).rpartition(":")
    name = Path(file) if colon and file.lower().endswith(NPZ) and not path.exists() else path
    if name.suffix.lower() == NPZ and name.is_file():
        return Splits(read_npz(name, part if name is not path else None, NAMES), name=name.stem, source=str(path))
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
    if not found and (images := image_folder(folder, NAMES)):
        return Splits(images, name=folder.resolve().name or "data", source=str(folder))
    if not files:
        raise InputError(
            f"{folder} holds no data files ({', '.join(EXTENSIONS)}), and no subfolders of images, one for each class"
        )
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
            "(text, label) or (image, label) pairs, a dict of columns or a Dataset"
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
    role = "text" if kind == _PAIR else "image"
    inputs = [pair[0] if role == "text" else Picture.of(pair[0]) for pair in source]
    return Dataset({role: inputs, "label": [pair[1] for pair in source]})


_PAIR = "a (text, label) pair"


def _kind(example: Any) -> str | None:
    if isinstance(example, Mapping):
        return "a dict" if example else None
    if not isinstance(example, tuple | list) or len(example) != 2:
        return None
    if isinstance(example[0], str):
        return _PAIR
    image = isinstance(example[0], Path | Picture) or is_pixels(example[0]) or is_pillow(example[0])
    return "an (image, label) pair" if image else None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
