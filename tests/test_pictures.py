"""Images as they come: files, pixels, images of Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tl_jax.errors import InputError
from tl_jax.pictures import Picture, is_pillow, is_pixels


def test_the_digest_is_of_what_is_in_it(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (4, 6, 3), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    one, other = (Picture(tmp_path / name) for name in ("a.png", "b.png"))
    assert one.digest == other.digest
    assert Picture(pixels).digest == Picture(pixels.copy()).digest != Picture(pixels.reshape(6, 4, 3)).digest
    missing = Picture(tmp_path / "c.png"), Picture(tmp_path / "d.png")
    assert missing[0].digest != missing[1].digest  # each is one to be told of


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_the_one_asked_for(mode: str, tmp_path: Path) -> None:
    image = Image.new("I;16" if mode == "I;16" else mode, (5, 3))
    image.save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    (file,) = tmp_path.iterdir()
    for wanted, shape in (("RGB", (3, 5, 3)), ("L", (3, 5)), ("RGBA", (3, 5, 4))):
        assert np.asarray(Picture(file).open(wanted)).shape == shape
        if mode not in ("I;16", "CMYK"):
            assert np.asarray(Picture.of(image).open(wanted)).shape == shape


def test_a_path_is_relative_to_the_folder_given(tmp_path: Path) -> None:
    assert Picture.of("a/b.png", tmp_path).source == tmp_path / "a" / "b.png"
    assert Picture.of(tmp_path / "b.png", Path("elsewhere")).source == tmp_path / "b.png"
    kept = Picture(tmp_path)
    assert Picture.of(kept, Path("elsewhere")) is kept


@pytest.mark.parametrize(
    "value", [3, None, np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_what_is_no_image(value: object) -> None:
    assert not is_pixels(value) and not is_pillow(value)
    with pytest.raises(InputError, match="an image must be a path, an image of Pillow, or pixels"):
        Picture.of(value)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that says it is a huge image is not unpacked."""
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"a.png: Image size .* exceeds limit"):
        Picture(tmp_path / "a.png").open()
