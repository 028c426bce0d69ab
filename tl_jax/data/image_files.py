"""Images to datasets: folders with a subfolder for each class, and .npz files of pixels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax.data.dataset import Dataset
from tl_jax.errors import InputError, did_you_mean
from tl_jax.pictures import SUFFIXES, Picture, is_pixels

Names = Mapping[str, str]  # what a split may be called, and its name


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and below it, sorted; hidden ones and hidden folders are left alone."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found)


def image_folder(folder: Path, names: Names) -> dict[str, Dataset]:
    """The splits of a folder of images, empty if it is none: each class is a subfolder, its label the subfolder's name.

    Where subfolders have the names of splits and hold classes, each is a split; else all is `train`. Raises
    `InputError` for two subfolders of one split.
    """
    inside = _subfolders(folder)
    parts = [place for place in inside if place.name.lower() in names and _subfolders(place)]
    if not parts:
        dataset = _classes(folder)
        return {} if dataset is None else {"train": dataset}
    found: dict[str, Dataset] = {}
    for place in parts:
        split = names[place.name.lower()]
        if split in found:
            raise InputError(f"{folder}: {place.name} is the split {split!r} a second time; keep one")
        dataset = _classes(place)
        if dataset is not None:
            found[split] = dataset
    return found


def _subfolders(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))


def _classes(folder: Path) -> Dataset | None:
    images, labels = [], []
    for place in _subfolders(folder):
        files = image_files(place)
        images += [Picture(path) for path in files]
        labels += [place.name] * len(files)
    if not images:
        return None
    return Dataset({"image": images, "label": labels}, name=folder.resolve().name, source=str(folder), folder=folder)


def read_npz(path: Path, part: str | None, names: Names) -> dict[str, Dataset]:
    """The splits of an .npz file: arrays `images` (uint8 [N, H, W] or [N, H, W, C]) and `labels` ([N]).

    What stands before these words is the split, `train_images`, or one of several sets that `part` chooses from,
    `usps_train_images`. With an array `class_names` labels are numbers of its entries. Raises `InputError` for what is
    none of this, and where a part must be chosen.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = [key for key in file.files if key == "images" or key.endswith("_images")]
            parts: dict[str, dict[str, str]] = {}
            for key in keys:
                group, split = _place(key.removesuffix("images").rstrip("_"), names)
                parts.setdefault(group, {})[split] = key
            chosen = _chosen(path, part, parts)
            classes = file["class_names"] if "class_names" in file.files else None
            return {split: _of_arrays(path, file, key, classes) for split, key in parts[chosen].items()}
    except InputError:
        raise
    except Exception as e:  # a broken archive raises whatever its reader comes across
        raise InputError(f"{path} cannot be read as an .npz file of arrays: {str(e).splitlines()[0]}") from None


def _place(prefix: str, names: Names) -> tuple[str, str]:
    """The set and the split that a prefix names."""
    group, _, last = prefix.rpartition("_")
    if last.lower() in names:
        return group, names[last.lower()]
    return prefix, "train"


def _chosen(path: Path, part: str | None, parts: Mapping[str, Any]) -> str:
    if not parts:
        raise InputError(f"{path} holds no images: an array `images` or `train_images`, uint8 [N, height, width, 3]")
    if part is None and len(parts) == 1:
        return next(iter(parts))
    if part in parts:
        return str(part)
    if part is None:
        raise InputError(f"{path} holds several sets: {', '.join(parts)}; name one: {path}:{next(iter(parts))}")
    if not any(parts):
        raise InputError(f"{path} holds one set, which has no name, and none called {part!r}: leave it away")
    raise InputError(f"{path} holds no set {part!r}{did_you_mean(part, parts)}")


def _of_arrays(path: Path, file: Mapping[str, Any], key: str, classes: Any) -> Dataset:
    images = file[key]
    if images.ndim not in (3, 4) or not len(images) or not is_pixels(images[0]):
        raise InputError(
            f"{path}: {key} is {images.dtype} {list(images.shape)}; images are uint8 [N, height, width] or "
            "[N, height, width, channels]"
        )
    columns: dict[str, Any] = {"image": [Picture(image, f"{path}, {key}[{i}]") for i, image in enumerate(images)]}
    theirs = f"{key.removesuffix('images')}labels"
    if theirs in file:
        labels = file[theirs]
        if labels.shape != (len(images),):
            raise InputError(f"{path}: {theirs} is {list(labels.shape)} for {len(images)} images")
        if classes is not None and labels.dtype.kind in "iu":
            if labels.min() < 0 or labels.max() >= len(classes):
                wrong = labels.min() if labels.min() < 0 else labels.max()
                raise InputError(f"{path}: {theirs} holds {wrong}, and class_names has {len(classes)} entries")
            labels = classes[labels]
        columns["label"] = labels.tolist()
    return Dataset(columns, name=path.stem, source=str(path), folder=path.parent)
