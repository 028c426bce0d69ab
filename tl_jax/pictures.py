"""Pictures: images that are opened when they are asked for, from a file or from pixels in memory."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tl_jax.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class Picture:
    """An image in a file, or pixels in memory: uint8 `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]`.

    `name` is what messages call it.
    """

    def __init__(self, source: Path | npt.NDArray[np.uint8], name: str | None = None) -> None:
        self.source = source
        self.name = str(source) if name is None and isinstance(source, Path) else name or "an image in memory"

    def __repr__(self) -> str:
        return f"Picture({self.name})"

    @classmethod
    def of(cls, value: Any, folder: Path | None = None, name: str | None = None) -> Picture:
        """From a path (relative to `folder`), pixels, or an image of Pillow; a picture stays as it is.

        Raises `InputError` for anything else.
        """
        if isinstance(value, Picture):
            return value
        if isinstance(value, str | Path):
            return cls((folder or Path()) / Path(value).expanduser(), name)
        if is_pillow(value):
            from PIL import ImageOps

            value = ImageOps.exif_transpose(value)  # upright, as from a file
            value = np.asarray(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        if not is_pixels(value):
            kind = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
            raise InputError(
                f"{name or 'an image'} must be a path, an image of Pillow, or pixels as uint8 [height, width] or "
                f"[height, width, 1, 3 or 4], not {kind}"
            )
        return cls(value, name)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of what is in it: the bytes of its file, or its pixels; of a file that is missing, its name."""
        if isinstance(self.source, Path):
            try:
                with open(self.source, "rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                return hashlib.sha256(f"missing {self.name}".encode()).hexdigest()
        pixels = np.ascontiguousarray(self.source)
        return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()

    def open(self, mode: str = "RGB") -> Image:
        """The image upright, in a mode of Pillow: "RGB", "L" (grey) or "RGBA".

        Raises `InputError`, naming it, for what cannot be read.
        """
        from PIL import Image, ImageOps

        if not isinstance(self.source, Path):
            pixels = self.source[..., 0] if self.source.shape[2:] == (1,) else self.source
            return Image.fromarray(pixels).convert(mode)
        try:
            with Image.open(self.source) as opened:
                return ImageOps.exif_transpose(opened).convert(mode)
        except FileNotFoundError:
            raise InputError(f"{self.name}: there is no such file") from None
        except Exception as e:  # decoders raise whatever they come across in a broken file
            why = "it is no image that Pillow knows" if type(e).__name__ == "UnidentifiedImageError" else str(e)
            raise InputError(f"{self.name}: {why or type(e).__name__}") from None


def is_pixels(value: Any) -> bool:
    """Whether a value is an array that can only be an image's pixels."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or 0 in value.shape:
        return False
    return value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3, 4))


def is_pillow(value: Any) -> bool:
    """Whether a value is an image of Pillow, which is not imported to tell."""
    return any(f"{kind.__module__}.{kind.__name__}" == "PIL.Image.Image" for kind in type(value).__mro__)
