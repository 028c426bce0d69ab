"""The processor of images: to the bit what transformers' processors make that compute with Pillow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tl_jax.errors import InputError
from tl_jax.pictures import Picture
from tl_jax.pretrained.image_processor import FILE, ImageProcessor

SIDES = {"height": 13, "width": 9}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {"size": SIDES}),
    ("ViT", {"size": SIDES, "resample": 0}),
    ("ViT", {"size": SIDES, "resample": 1, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.3]}),
    ("ViT", {"size": SIDES, "do_normalize": False}),
    ("ViT", {"size": SIDES, "do_rescale": False}),
    ("ViT", {"size": SIDES, "rescale_factor": 1 / 127.5}),
    ("DeiT", {"size": {"height": 15, "width": 12}, "crop_size": {"height": 7, "width": 11}}),
    ("DeiT", {"size": {"height": 15, "width": 12}, "crop_size": {"height": 18, "width": 7}}),
    ("DeiT", {"size": {"height": 8, "width": 8}, "crop_size": {"height": 13, "width": 13}}),
    ("DeiT", {"do_resize": False, "crop_size": {"height": 17, "width": 20}}),
    ("ConvNext", {"size": {"shortest_edge": 16}}),
    ("ConvNext", {"size": {"shortest_edge": 15}, "crop_pct": 0.9, "resample": 2}),
    ("ConvNext", {"size": {"shortest_edge": 384}}),
    ("CLIP", {"size": {"shortest_edge": 12}, "crop_size": {"height": 11, "width": 11}}),
]


def pictures(rng: np.random.Generator, folder: Path, channels: int = 3) -> list[Path]:
    """Images of several shapes, upright and lying, larger and smaller than what they become."""
    found = []
    for i, (height, width) in enumerate([(20, 31), (33, 12), (9, 9), (5, 40)]):
        shape = (height, width, 3) if channels == 3 else (height, width)
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path)
        found.append(path)
    return found


@pytest.mark.parametrize(("kind", "config"), CASES)
def test_images_become_what_transformers_makes_of_them(kind, config, rng, tmp_path):
    import transformers

    theirs = getattr(transformers, f"{kind}ImageProcessorPil")(**config)
    theirs.save_pretrained(tmp_path)
    ours = ImageProcessor.read(tmp_path)
    paths = pictures(rng, tmp_path)
    found = ours(paths)["image"]
    expected = theirs([Image.open(path) for path in paths], return_tensors="np")["pixel_values"]
    assert found.dtype == np.float32 and found.shape[1:] == ours.shape
    np.testing.assert_array_equal(found, np.asarray(expected).transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 20}, (20, 20, 3)),
        ({"size": 20}, (20, 20, 3)),
        ({"feature_extractor_type": "DeiTFeatureExtractor", "size": 20, "crop_size": 16}, (16, 16, 3)),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 20}, (20, 20, 3)),
        ({"image_processor_type": "DeiTImageProcessor"}, (224, 224, 3)),
        ({}, (224, 224, 3)),
    ],
)
def test_files_of_earlier_generations(config, shape):
    assert ImageProcessor(config).shape == shape


def test_paths_pixels_and_images_of_pillow_are_the_same(rng, tmp_path):
    processor = ImageProcessor({"size": 8})
    (path, *_) = pictures(rng, tmp_path)
    with Image.open(path) as image:
        ways = [path, str(path), Picture.of(path), image.copy(), np.asarray(image)]
    found = processor(ways)["image"]
    assert all(np.array_equal(one, found[0]) for one in found)
    with pytest.raises(InputError, match="a list of images, not one image"):
        processor(str(path))
    with pytest.raises(InputError, match=r"must be a path, an image of Pillow, or pixels.*not float64 \[3, 3\]"):
        processor([np.zeros((3, 3))])


def test_a_model_of_grey_images(rng, tmp_path):
    (path, *_) = pictures(rng, tmp_path, channels=1)
    found = ImageProcessor({"size": 8}, channels=1)([path, np.asarray(Image.open(path))[..., None]])["image"]
    assert found.shape == (2, 8, 8, 1)
    resized = np.asarray(Image.open(path).resize((8, 8), 2), np.float64)
    np.testing.assert_allclose(found[0, ..., 0], resized / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(found[0], found[1])


def test_images_are_turned_upright(tmp_path, rng):
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is above lies at the right
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    found = ImageProcessor({"size": 8, "do_normalize": False, "do_rescale": False})([tmp_path / "a.png"])["image"][0]
    np.testing.assert_array_equal(found, np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("config", "size", "shape"),
    [
        ({"size": 20}, 8, {"height": 8, "width": 8}),
        (
            {"image_processor_type": "DeiTImageProcessor", "size": 256, "crop_size": 224},
            112,
            {"height": 128, "width": 128},
        ),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 224}, 32, {"shortest_edge": 32}),
        (
            {"do_center_crop": True, "image_processor_type": "CLIPImageProcessor", "size": 40, "crop_size": 20},
            10,
            {"shortest_edge": 20},
        ),
    ],
)
def test_another_size_is_cropped_alike_and_written(config, size, shape, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(config))
    before = ImageProcessor.read(tmp_path)
    after = before.at_size(size)
    assert after.shape == (size, size, 3) and after.config["size"] == shape
    assert after.identity != before.identity
    (tmp_path / "out").mkdir()
    after.write(tmp_path / "out")
    assert ImageProcessor.read(tmp_path / "out").shape == after.shape
    before.write(tmp_path / "out")
    assert (tmp_path / "out" / FILE).read_bytes() == (tmp_path / FILE).read_bytes()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"size": {"shortest_edge": 20}}, "size gives images of many shapes"),
        ({"size": "20"}, 'size must be a number or {"height".*it is "20"'),
        ({"resample": "bilinear"}, "resample must be the number of a filter of Pillow, 0 to 5; it is"),
        ({"image_mean": [0.1, 0.2]}, "image_mean has 2 numbers for 3 channels"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std must not be 0"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 2, "width": 2}}, "shortest_edge"),
    ],
)
def test_configs_that_are_not_understood(config, said):
    with pytest.raises(InputError, match=said):
        ImageProcessor(config)


@pytest.mark.parametrize("broken", ["text", "cut", "empty", "missing", "folder"])
def test_what_cannot_be_read_is_named(broken, rng, tmp_path):
    path = pictures(rng, tmp_path)[0]
    content = path.read_bytes()
    path.unlink()
    if broken == "folder":
        path.mkdir()
    elif broken != "missing":
        path.write_bytes({"text": b"not an image", "cut": content[: len(content) // 2], "empty": b""}[broken])
    with pytest.raises(InputError, match=f"{path}: ."):
        ImageProcessor({"size": 8})([path])
