"""Folders of images and .npz files to splits; tables that name images; the columns, and what is held out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import images as files
from tl_jax import data
from tl_jax.errors import InputError
from tl_jax.pictures import Picture


def test_a_subfolder_for_each_class(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "set", 9)
    (tmp_path / "set" / "dot" / "deep" / "er").mkdir(parents=True)
    shutil.move(tmp_path / "set" / "dot" / "001.png", tmp_path / "set" / "dot" / "deep" / "er" / "x.PNG")
    (tmp_path / "set" / "dot" / "notes.txt").write_text("no image")
    (tmp_path / "set" / ".hidden").mkdir()
    (tmp_path / "set" / "bar" / ".000.png").write_text("no image")
    splits = data.open(tmp_path / "set")
    assert list(splits) == ["train"] and splits.name == "set"
    dataset = splits.only
    assert dataset.column("label") == ["bar"] * 3 + ["dot"] * 3 + ["ring"] * 3
    assert [picture.source.name for picture in dataset.column("image")][3:6] == ["004.png", "007.png", "x.PNG"]
    assert dataset.where(0) == str(tmp_path / "set" / "bar" / "000.png")
    assert dataset.select([4]).where(0).endswith("dot/007.png")


def test_subfolders_named_as_splits_are(tmp_path: Path) -> None:
    for name, count in (("train", 9), ("val", 3), ("test", 6)):
        files.write_folder(tmp_path / name, count)
    splits = data.open(tmp_path)
    assert {name: len(part) for name, part in splits.items()} == {"train": 9, "validation": 3, "test": 6}
    files.write_folder(tmp_path / "dev", 3)
    with pytest.raises(InputError, match="val is the split 'validation' a second time; keep one"):
        data.open(tmp_path)


def test_a_class_may_be_called_as_a_split_is(tmp_path: Path) -> None:
    files.write_folder(tmp_path, 6)
    (tmp_path / "dot").rename(tmp_path / "test")
    assert set(data.open(tmp_path)["train"].column("label")) == {"bar", "ring", "test"}


def test_files_of_splits_come_before_folders_of_images(tmp_path: Path) -> None:
    files.write_folder(tmp_path, 6)
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    assert data.open(tmp_path)["train"].columns == ("text", "label")


def test_a_folder_of_neither(tmp_path: Path) -> None:
    (tmp_path / "dot").mkdir()
    with pytest.raises(InputError, match=r"holds no data files .* and no subfolders of images"):
        data.open(tmp_path)


def test_splits_of_an_npz_file(tmp_path: Path) -> None:
    path = files.write_npz(tmp_path / "a.npz", train=(6, 0), test=(3, 1))
    splits = data.open(path)
    assert list(splits) == ["train", "test"]
    images, labels = files.pictures(6)
    assert splits["train"].column("label") == labels
    np.testing.assert_array_equal(splits["train"].column("image")[4].source, images[4])
    assert splits["train"].where(4) == f"{path}, train_images[4]"


def test_one_of_several_sets(tmp_path: Path) -> None:
    path = files.write_npz(tmp_path / "a.npz", photo=(6, 0), sketch_train=(9, 1), sketch_test=(3, 2))
    with pytest.raises(InputError, match=r"holds several sets: photo, sketch; name one: .*a\.npz:photo"):
        data.open(path)
    with pytest.raises(InputError, match="no set 'phto'; did you mean 'photo'"):
        data.open(f"{path}:phto")
    assert {k: len(v) for k, v in data.open(f"{path}:sketch").items()} == {"train": 9, "test": 3}
    assert len(data.open(f"{path}:photo").only) == 6


def test_plain_names_and_grey_images(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "a.npz", images=rng.integers(0, 256, (4, 5, 6), np.uint8), labels=np.array([3, 5, 3, 5]))
    dataset = data.open(tmp_path / "a.npz").only
    assert dataset.column("label") == [3, 5, 3, 5]
    assert dataset.column("image")[0].open("RGB").size == (6, 5)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros(3)}, "holds no images: an array `images`"),
        (
            {"images": np.zeros((2, 3, 3)), "labels": np.zeros(2, int)},
            r"images is float64 \[2, 3, 3\]; images are uint8",
        ),
        ({"images": np.zeros((2, 3, 3, 5), np.uint8)}, r"images is uint8 \[2, 3, 3, 5\]"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": np.zeros(3, int)}, r"labels is \[3\] for 2 images"),
        (
            {"images": np.zeros((2, 3, 3), np.uint8), "labels": np.array([0, 2]), "class_names": np.array(["a", "b"])},
            "labels holds 2, and class_names has 2 entries",
        ),
        (
            {"images": np.zeros((2, 3, 3), np.uint8), "labels": np.array([-1, 1]), "class_names": np.array(["a", "b"])},
            "labels holds -1, and class_names has 2 entries",
        ),
        ({"images": np.array([None, "x"], object)}, "cannot be read as an .npz file"),
    ],
)
def test_arrays_that_are_no_images(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        data.open(tmp_path / "a.npz")


def test_a_broken_npz_file(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"cannot be read as an .npz file"):
        data.open(tmp_path / "a.npz")
    with pytest.raises(InputError, match="no such file"):
        data.open(tmp_path / "b.npz:photo")


# -- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "column", "how"),
    [
        ("image,label", "image", "by name"),
        ("id,file_name,label", "file_name", "by name"),
        ("id,where,label", "where", "by content"),
    ],
)
def test_a_table_that_names_images(header: str, column: str, how: str, tmp_path: Path) -> None:
    files.write_folder(tmp_path / "pictures", 6)
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted((tmp_path / "pictures").rglob("*.png"))
    ]
    rows = [f"{i},{row}" if header.startswith("id") else row for i, row in enumerate(rows)]
    (tmp_path / "train.csv").write_text("\n".join([header, *rows]))
    dataset = data.open(tmp_path / "train.csv").only
    columns = data.infer_image_columns(dataset)
    assert (columns.role, columns.input, columns.label) == ("image", column, "label")
    assert str(columns).startswith(f"image column {column!r}") and how in str(columns)
    found = data.pictures(dataset, column)
    assert found[0].source == tmp_path / "pictures" / "bar" / "000.png"
    assert found[0].open().size == (16, 16)


def test_columns_that_are_given_or_unclear(tmp_path: Path) -> None:
    dataset = data.Dataset({"one": ["a.png"] * 4, "two": ["b.jpg"] * 4, "kind": list("xyxy")})
    with pytest.raises(InputError, match=r"which column is the image.*'one', 'two'.*name it with --image-column"):
        data.infer_image_columns(dataset)
    assert data.infer_image_columns(dataset, "two", "kind")[:2] == ("two", "kind")
    with pytest.raises(InputError, match="no column 'tow'; did you mean 'two'"):
        data.infer_image_columns(dataset, "tow")
    with pytest.raises(InputError, match="'two' cannot be both the image and the label"):
        data.infer_image_columns(dataset, "two", "two")
    with pytest.raises(InputError, match="no column holds paths of images"):
        data.infer_image_columns(data.Dataset({"text": ["a", "b"], "label": ["x", "y"]}))
    broken = data.Dataset({"image": ["a.png", None, ""], "label": list("xyz")})
    with pytest.raises(InputError, match=r"example 1: the image .column 'image'. is missing, not a path"):
        data.pictures(broken, "image")


def test_pairs_and_columns_in_memory(tmp_path: Path) -> None:
    images, labels = files.pictures(6)
    pillow = [Image.fromarray(image) for image in images]
    ways = [
        list(zip(images, labels, strict=True)),
        list(zip(pillow, labels, strict=True)),
        {"image": images, "label": labels},
        [{"image": image, "label": label} for image, label in zip(pillow, labels, strict=True)],
    ]
    found = [data.open(way).only for way in ways]
    assert all(isinstance(value, Picture) for dataset in found for value in dataset.column("image"))
    assert len({dataset.fingerprint for dataset in found}) == 1
    paths = [(tmp_path / f"{i}.png", label) for i, label in enumerate(labels)]
    assert data.pictures(data.open(paths).only, "image")[5].source == tmp_path / "5.png"


def test_the_fingerprint_is_of_what_is_in_the_images(tmp_path: Path) -> None:
    one, other = (data.open(files.write_folder(tmp_path / name, 6)).only for name in ("one", "other"))
    assert one.fingerprint == other.fingerprint
    Image.new("RGB", (3, 3)).save(tmp_path / "other" / "dot" / "001.png")
    assert data.open(tmp_path / "other").only.fingerprint != one.fingerprint


def test_equal_images_are_held_out_together(tmp_path: Path) -> None:
    """By what is in them, whatever they are called; and as a folder or in memory the same ones."""
    images, labels = files.pictures(120)
    images[60:] = images[:60]
    labels[60:] = labels[:60]
    division = data.divide(data.open({"image": images, "label": labels}), images=True)
    assert division.columns.role == "image" and division.labels == files.LABELS
    train, held = ({p.digest for p in part.column("image")} for part in (division.train, division.validation))
    assert not train & held and 0 < len(held) < 30
    assert len(division.train) == 2 * len(train) and len(division.validation) == 2 * len(held)


def test_few_images_are_called_images() -> None:
    images, labels = files.pictures(9)
    division = data.divide(data.open({"image": images, "label": labels}), images=True)
    assert all("text" not in note for note in division.notes)


def test_what_is_in_the_images_of_a_table_counts(tmp_path: Path) -> None:
    """A table of the same paths over other images is other data."""
    files.write_folder(tmp_path / "set", 30)
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted((tmp_path / "set").rglob("*.png"))]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["file,label", *rows]))

    def prints() -> tuple[str, str]:
        found = data.divide(data.open(table), images=True)
        assert found.validation is not None and found.train.where(0).endswith("table.csv, line 2")
        return found.train.fingerprint, found.validation.fingerprint

    before = prints()
    assert prints() == before
    shutil.move(tmp_path / "set", tmp_path / "moved")
    table.write_text(table.read_text().replace("set/", "moved/"))
    assert prints() == before
    trained = data.divide(data.open(table), images=True).train.column("file")[0]
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(trained.source)
    assert prints() != before
