"""Batches of images: a pure function of seed and step, every image once, changed by what its own number draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import images as files
from tl_jax import data
from tl_jax.data import augmentation
from tl_jax.errors import InputError
from tl_jax.pictures import Picture
from tl_jax.pretrained import ImageProcessor


def encoded(count: int, kept: bool = True, seed: int = 0) -> data.EncodedImages:
    pixels, labels = files.pictures(count, seed)
    processor = ImageProcessor(files.PROCESSOR)
    pictures = [Picture(image) for image in pixels]
    targets = np.array([files.LABELS.index(label) for label in labels], np.int32)
    made = np.stack([processor.pixels(picture) for picture in pictures]) if kept else None
    return data.EncodedImages(
        pictures, processor, targets, np.arange(count, dtype=np.int32), made, np.arange(count) if kept else None
    )


def test_a_batch_is_what_the_processor_makes() -> None:
    examples = encoded(7)
    batch = examples.batch(np.array([4, 2]), 3)
    assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == {
        "image": ("float32", (3, 12, 12, 3)),
        "noise": ("uint32", (3, 1)),
        "targets": ("int32", (3,)),
        "weights": ("float32", (3,)),
        "index": ("int32", (3,)),
    }
    expected = examples.processor([examples.pictures[i] for i in (4, 2)])["image"]
    np.testing.assert_array_equal(batch["image"][:2], expected)
    np.testing.assert_array_equal(batch["image"][2], expected[0])  # padding: nothing that a batch norm has not seen
    assert batch["index"].tolist() == [4, 2, -1]
    assert batch["weights"].tolist() == [1, 1, 0] and batch["targets"].tolist() == [1, 2, 0]


@pytest.mark.parametrize("kept", [True, False])
def test_kept_or_opened_again_is_the_same(kept: bool) -> None:
    examples = encoded(7, kept).select([6, 1, 3])
    np.testing.assert_array_equal(
        examples.batch(np.arange(3), 3)["image"], encoded(7).batch(np.array([6, 1, 3]), 3)["image"]
    )
    assert examples.index.tolist() == [6, 1, 3]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_image_once_an_epoch_in_an_order_by_seed_and_epoch(accumulate: int) -> None:
    def batches(seed: int) -> data.ImageBatches:
        return data.ImageBatches(encoded(11), 4, seed, accumulate=accumulate)

    one = batches(0)
    assert one.steps_per_epoch == 3 and one.padding == pytest.approx(1 / 12)
    assert one.shapes == (((4, 12, 12, 3) if accumulate == 1 else (2, 2, 12, 12, 3)),)
    assert one.rows == 4 // accumulate and one.described == "4 images of 12 × 12"
    orders = []
    for source, epoch in ((one, 0), (one, 1), (batches(1), 0), (batches(0), 0)):
        seen = np.concatenate([source.batch(3 * epoch + i)["index"].ravel() for i in range(3)])
        assert sorted(seen[seen >= 0]) == list(range(11))
        assert all(source.batch(i)["image"].shape == one.shapes[0] for i in range(3))
        orders.append(seen.tolist())
    assert orders[0] == orders[3] and len({tuple(order) for order in orders}) == 3


def test_passes_see_every_image_once_in_order() -> None:
    batches = data.ImagePasses(encoded(7), 3)
    assert len(batches) == 3 and batches.shapes == ((3, 12, 12, 3),)
    assert np.concatenate([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3, 4, 5, 6, -1, -1]
    with pytest.raises(InputError, match="no examples"):
        data.ImagePasses(encoded(2).select([]), 3)
    shape = data.PassShape.of(data.ImageBatches(encoded(7), 4, 0, accumulate=2))
    assert shape == data.PassShape(2, ())
    assert shape.over(encoded(7), 0).shapes == ((2, 12, 12, 3),)
    assert replace(shape, rows=64).over(encoded(7), 0, least=True).shapes == ((8, 12, 12, 3),)


def test_features_stand_in_for_the_image() -> None:
    examples = encoded(5, kept=False)
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    featured = replace(examples, features={"pooled": data.Feature(values, ragged=False)})
    batch = featured.batch(np.array([3]), 2, augmentation.Augmentation(flip=True), (0, 0))
    assert "image" not in batch and batch["pooled"].tolist() == [[6, 7], [6, 7]]
    assert data.shape_of(batch) == (2,) and data.filled(batch) == (1, 2)


def test_what_differs_has_other_facts() -> None:
    def fact(examples: data.EncodedImages) -> bytes:
        ((_, array),) = examples.facts()
        return array.tobytes()

    examples = encoded(5)
    other = replace(examples, processor=examples.processor.at_size(8))
    assert fact(examples) == fact(encoded(5, kept=False))
    assert len({fact(e) for e in (examples, encoded(5, seed=1), examples.select([1, 0]), other)}) == 4


# -- augmentation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crop", "flip", "crop+flip"])
@pytest.mark.parametrize("kept", [True, False])
def test_changes_follow_from_seed_step_and_example_alone(name: str, kept: bool, rng: np.random.Generator) -> None:
    change, examples = augmentation.Augmentation.of(name), encoded(9, kept)

    def pictures(places: list[int], seed: int = 0, step: int = 5) -> dict[int, bytes]:
        batch = examples.batch(np.array(places), 9, change, (seed, step))
        return {int(i): image.tobytes() for i, image in zip(batch["index"], batch["image"], strict=True) if i >= 0}

    whole = pictures(list(range(9)))
    order = [int(i) for i in rng.permutation(9)]
    assert pictures(order) == whole and pictures([order[0]]) == {order[0]: whole[order[0]]}
    plain = {i: image.tobytes() for i, image in enumerate(examples.batch(np.arange(9), 9)["image"])}
    assert whole != plain and pictures(order, seed=1) != whole != pictures(order, step=6)


def test_a_flip_exchanges_left_and_right_of_half_of_them() -> None:
    examples = encoded(9)
    plain = examples.batch(np.arange(9), 9)["image"]
    flipped = 0
    for step in range(20):
        batch = examples.batch(np.arange(9), 9, augmentation.Augmentation(flip=True), (0, step))["image"]
        for one, other in zip(batch, plain, strict=True):
            mirrored = np.array_equal(one, other[:, ::-1])
            assert mirrored or np.array_equal(one, other)
            flipped += mirrored
    assert 60 < flipped < 120


def test_parts_lie_inside_and_are_drawn_between_the_bounds(rng: np.random.Generator) -> None:
    shares = []
    for _ in range(300):
        width, height = (int(side) for side in rng.integers(20, 200, 2))
        left, top, right, bottom = augmentation.part(width, height, rng.random(40))
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        if max(width, height) < 1.3 * min(width, height):  # else no part of that shape may fit
            shares.append((right - left) * (bottom - top) / (width * height))
            assert 0.7 < (right - left) / (bottom - top) < 1.42
    assert 0.3 < min(shares) < 0.45 and max(shares) > 0.8


@pytest.mark.parametrize(("size", "box"), [((300, 10), (143, 0, 156, 10)), ((10, 300), (0, 143, 10, 156))])
def test_where_no_part_fits_it_is_the_middle(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    assert augmentation.part(*size, np.full(40, 0.99)) == box


def test_the_words_of_the_flag() -> None:
    assert augmentation.Augmentation.of("none") is None
    assert augmentation.Augmentation.of("crop+flip") == augmentation.Augmentation(crop=True, flip=True)


def test_a_part_is_taken_of_the_picture_as_it_came(tmp_path: Path) -> None:
    """Not of the small image that the model reads: a part keeps the detail of the file."""
    pixels = np.zeros((120, 120, 3), np.uint8)
    pixels[::2] = 255  # lines that are grey once made small
    examples = data.EncodedImages(
        [Picture(pixels)],
        ImageProcessor(files.PROCESSOR | {"resample": 0}),
        np.zeros(1, np.int32),
        np.zeros(1, np.int32),
    )
    batch = examples.batch(np.array([0]), 1, augmentation.Augmentation(crop=True), (0, 0))
    assert set(np.unique(batch["image"])) <= {-1.0, 1.0}
