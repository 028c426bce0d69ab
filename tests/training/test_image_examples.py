"""Images opened once and kept; broken ones among good ones named and counted."""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import images as files
from tl_jax import data
from tl_jax.errors import InputError
from tl_jax.pictures import Picture
from tl_jax.pretrained import ImageProcessor
from tl_jax.training import feature_store
from tl_jax.training.feature_store import FeatureStore
from tl_jax.training.image_examples import image_store, prepare_images


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    return image_store(lambda text: None)


def with_broken(folder: Path) -> list[Picture]:
    """Nine pictures, of which one is cut, one no image, one missing."""
    files.write_folder(folder, 9)
    pictures = [Picture(path) for path in sorted(folder.rglob("*.png"))]
    cut, none, missing = (pictures[i].source for i in (1, 4, 7))
    cut.write_bytes(cut.read_bytes()[:-60])
    none.write_text("<html>not found</html>")
    missing.unlink()
    return pictures


def test_images_are_opened_once_and_kept_on_disk(
    tmp_path: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [Picture(path) for path in sorted(files.write_folder(tmp_path / "a", 9).rglob("*.png"))]
    processor = ImageProcessor(files.PROCESSOR)
    first = prepare_images(pictures, processor, store).examples
    assert isinstance(first.pixels, np.memmap) or isinstance(first.pixels.base, np.memmap)

    def never(picture: Picture, mode: str = "RGB") -> None:
        raise AssertionError("opened again")

    monkeypatch.setattr(Picture, "open", never)
    again = prepare_images(pictures, processor, image_store(lambda text: None), targets=np.arange(9)).examples
    np.testing.assert_array_equal(first.batch(np.arange(9), 9)["image"], again.batch(np.arange(9), 9)["image"])
    assert again.targets.tolist() == list(range(9))
    with pytest.raises(AssertionError, match="opened again"):  # other pixels are wanted of them
        prepare_images(pictures, processor.at_size(8), store)


def test_broken_images_are_refused_by_name(tmp_path: Path, store: FeatureStore) -> None:
    pictures = with_broken(tmp_path / "a")
    with pytest.raises(InputError) as refused:
        prepare_images(pictures, ImageProcessor(files.PROCESSOR), store)
    first, *lines = str(refused.value).splitlines()
    assert first == "3 of 9 images cannot be read (--corrupt skip leaves them out):"
    assert [line.strip().partition(": ")[0] for line in lines] == [pictures[i].name for i in (1, 4, 7)]
    assert "truncated" in lines[0] and "no image that Pillow knows" in lines[1] and "no such file" in lines[2]


@pytest.mark.parametrize("room", [True, False])
def test_broken_images_are_left_out_and_counted(
    room: bool, tmp_path: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not room:
        monkeypatch.setenv(feature_store.LIMIT, "0")
        monkeypatch.setattr(feature_store, "_MEMORY", 0)
    pictures = with_broken(tmp_path / "a")
    for _ in range(2):  # opened, and from what was kept
        found = prepare_images(pictures, ImageProcessor(files.PROCESSOR), store, corrupt="skip", targets=np.arange(9))
        assert (found.examples.pixels is not None) == room
        good = [0, 2, 3, 5, 6, 8]
        assert found.examples.index.tolist() == found.examples.targets.tolist() == good
        expected = found.examples.processor([pictures[i] for i in good])["image"]
        np.testing.assert_array_equal(found.examples.batch(np.arange(6), 6)["image"], expected)
        assert len(found.faults) == 3
        first, *lines = found.note("training").splitlines()
        assert first == "3 of 9 training images cannot be read and are left out:" and len(lines) == 3
    assert prepare_images(pictures[2:4], ImageProcessor(files.PROCESSOR), store).note() == ""


def test_what_was_mended_is_read(tmp_path: Path, store: FeatureStore) -> None:
    pictures = with_broken(tmp_path / "a")
    processor = ImageProcessor(files.PROCESSOR)
    with pytest.raises(InputError):
        prepare_images(pictures, processor, store)
    for picture in pictures:
        Image.new("RGB", (5, 5)).save(picture.source)
    mended = [Picture(picture.source) for picture in pictures]
    assert len(prepare_images(mended, processor, store).examples) == 9


def test_many_broken_images_are_counted_and_some_named(tmp_path: Path, store: FeatureStore) -> None:
    pictures = [Picture(tmp_path / f"{i}.png") for i in range(50)]
    with pytest.raises(InputError, match=r"50 of 50 images cannot be read(.|\n)*… and 10 more"):
        prepare_images(pictures, ImageProcessor(files.PROCESSOR), store)
    lenient = partial(prepare_images, pictures, ImageProcessor(files.PROCESSOR), store, corrupt="skip")
    with pytest.raises(InputError, match="none of the 50 images can be read"):
        lenient(targets=np.zeros(50, np.int32))
    assert len(lenient().examples) == 0 and len(lenient().faults) == 50  # of what is asked, without targets


def test_it_says_that_it_opens_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    pictures = [Picture(image) for image in files.pictures(9)[0]]
    for _ in range(2):
        prepare_images(pictures, ImageProcessor(files.PROCESSOR), image_store(said.append))
    assert said == ["opening 9 images"]
    monkeypatch.setattr(feature_store, "_MEMORY", 0)
    prepare_images(pictures, ImageProcessor(files.PROCESSOR), image_store(said.append, keep=False))
    assert said[-1] == "images of 3.6e-06 GiB are too many to keep: each is opened whenever it is needed"


def test_memory_holds_some_images_and_not_all(tmp_path: Path, store: FeatureStore) -> None:
    pictures = [Picture(path) for path in sorted(files.write_folder(tmp_path / "a", 300).rglob("*.png"))]
    processor = ImageProcessor({"size": 96})
    prepare_images(pictures[:2], processor, store)  # what is imported and kept for good
    tracemalloc.start()
    examples = prepare_images(pictures, processor, store).examples
    for batch in data.ImagePasses(examples, 8):
        assert batch["image"].nbytes == 8 * 96 * 96 * 3 * 4
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batch_bytes = 8 * 96 * 96 * 3 * 4
    assert 300 * 96 * 96 * 3 > 8_000_000 and peak < 5 * batch_bytes  # one, and another in the making
