"""What a model of images is asked: the same picture each time, through its own processor or in its own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.images import SIDE, write_vit
from tl_jax.pretrained import load
from tl_jax.verification.images import batch, compared, given, picture


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_picture(channels: int) -> None:
    drawn = picture(channels)
    assert drawn.dtype == np.uint8 and drawn.shape == ((48, 64) if channels == 1 else (48, 64, channels))
    assert len(np.unique(drawn)) > 200
    if channels > 1:
        assert len({drawn[..., c].tobytes() for c in range(channels)}) == channels
    for flipped in (drawn[::-1], drawn[:, ::-1]):
        assert (flipped != drawn).mean() > 0.5


def test_a_picture_goes_through_the_processor(tmp_path: Path) -> None:
    model, _ = load(write_vit(tmp_path / "model"))
    rows = batch(model)
    assert rows.keys() == {"image"} and rows["image"].shape == (1, SIDE, SIDE, 3)
    assert np.array_equal(rows["image"], model.processor([picture(3)])["image"])
    assert np.array_equal(given(rows)["pixel_values"][0, 2], rows["image"][0, :, :, 2])


def test_without_a_processor_an_image_of_the_config_s_size_is_drawn(tmp_path: Path) -> None:
    folder = write_vit(tmp_path / "model", image_size=[8, 20])
    (folder / "preprocessor_config.json").unlink()
    model, _ = load(folder)
    image = batch(model)["image"]
    assert image.shape == (1, 8, 20, 3) and image.dtype == np.float32 and 0.8 < image.std() < 1.2
    assert np.array_equal(image, batch(model)["image"])


def test_processors_that_differ(rng: np.random.Generator) -> None:
    image = rng.normal(size=(1, 4, 5, 3)).astype(np.float32)
    assert compared(image, image.tolist(), "there").passed
    assert not compared(image, image + 0.01, "there").passed
    fault = "a picture becomes 4 × 5 × 3, and 5 × 4 × 3 there"
    assert compared(image, image.swapaxes(1, 2), "there").faults == (fault,)
