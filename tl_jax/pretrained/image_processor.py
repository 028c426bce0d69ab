"""Images to what a model reads, as its folder's preprocessor_config.json says: with Pillow and numpy alone.

The arithmetic is that of transformers' processors that compute with Pillow: resized and cropped as bytes, then scaled
in float64 and normalised in float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tl_jax import pictures
from tl_jax.errors import InputError
from tl_jax.pictures import Picture
from tl_jax.pretrained.json_files import copy, read_json, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "preprocessor_config.json"
Pixels = npt.NDArray[np.uint8]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_HALF = [0.5, 0.5, 0.5]
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
# What a processor of transformers does where its file does not say; by the beginning of its name.
_USUAL: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "resample": 2, "image_mean": _HALF, "image_std": _HALF},
    "DeiT": {
        "size": 256,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 224,
        "image_mean": _IMAGENET[0],
        "image_std": _IMAGENET[1],
    },
    "ConvNext": {"size": 384, "resample": 3, "image_mean": _IMAGENET[0], "image_std": _IMAGENET[1]},
}
_CROP_PCT = 224 / 256
_WARPED = 384  # the size from which on ConvNext's processor crops nothing


@dataclass(frozen=True, eq=False)
class ImageProcessor:
    """A checkpoint's way with images: `processor(["cat.jpg"])` gives what `Model.apply` takes.

    `config` is the content of preprocessor_config.json, `channels` what the model reads; `file` is what `config` was
    read from, as long as it is that. Raises `InputError` for a config that is not understood.
    """

    config: Mapping[str, Any]
    channels: int = 3
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.channels not in _MODES:
            raise InputError(f"images of {self.channels} channels cannot be read from files: 1, 3 or 4 can")
        _ = self.shape, self._table, self.resample  # a config that is not understood is told of when it is read

    @classmethod
    def read(cls, folder: Path, channels: int = 3) -> ImageProcessor | None:
        """The processor of a model's folder; None where it has none."""
        path = folder / FILE
        return cls(read_json(path), channels, path) if path.is_file() else None

    def __call__(self, images: Sequence[Any]) -> dict[str, npt.NDArray[np.float32]]:
        """`{"image": float32 [N, H, W, C]}` of paths, images of Pillow, or pixels.

        Raises `InputError` for what cannot be read.
        """
        if isinstance(images, str | Path | Picture | np.ndarray):
            raise InputError("give the processor a list of images, not one image")
        pixels = [self.pixels(Picture.of(image)) for image in images]
        return {"image": self.scaled(np.stack(pixels) if pixels else np.empty((0, *self.shape), np.uint8))}

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what a model gets."""
        if self._kind == "ConvNext":
            side = self._shortest
            if side is None:
                raise self._fault("size", 'needs "shortest_edge"')
            return side, side, self.channels
        sides = self._sides("crop_size") if self._said("do_center_crop") else self._sides("size")
        if sides is None:
            raise self._fault("size", 'gives images of many shapes: it needs "height" and "width", or a center crop')
        return *sides, self.channels

    @property
    def mode(self) -> str:
        """The mode of Pillow in which images are opened."""
        return _MODES[self.channels]

    @property
    def resample(self) -> int:
        """The number of Pillow's filter by which images are resized."""
        number = self._said("resample", 2)
        if not isinstance(number, int) or not 0 <= number <= 5:
            raise self._fault("resample", "must be the number of a filter of Pillow, 0 to 5")
        return number

    @cached_property
    def identity(self) -> str:
        """A SHA-256 in hex of all that decides what the model reads: what is said, and the code that does it."""
        from PIL import __version__

        facts = (__version__, self.shape, self._kind, self.resample, self._steps)
        digest = hashlib.sha256(repr(facts).encode() + self._table.tobytes())
        for code in (__file__, pictures.__file__):
            digest.update(Path(code).read_bytes())
        return digest.hexdigest()

    def pixels(self, picture: Picture) -> Pixels:
        """A picture resized and cropped: uint8 `[H, W, C]`. Raises `InputError`, naming it, if it cannot be read."""
        image = picture.open(self.mode)
        for step, sides in self._steps:
            if step == "crop":
                image = _center_crop(image, sides)
            else:
                image = image.resize(self._target(image, step, sides)[::-1], self.resample)
        return np.asarray(image).reshape(self.shape)

    def scaled(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Pixels uint8 `[…, C]` as the model reads them, float32 `[…, C]`."""
        out = np.empty(pixels.shape, np.float32)
        for channel in range(self.channels):
            np.take(self._table[channel], pixels[..., channel], out=out[..., channel])
        return out

    def at_size(self, size: int) -> ImageProcessor:
        """The same for images of another size; what is cropped of them stays the same part."""
        config = dict(self.config)
        if self._kind == "ConvNext":
            config["size"] = {"shortest_edge": size}
        elif not self._said("do_center_crop"):
            config |= {"size": {"height": size, "width": size}}
        else:
            before = self._sides("crop_size") or (size, size)
            shortest, sides = self._shortest, self._sides("size")
            if shortest is not None:
                config["size"] = {"shortest_edge": round(shortest * size / min(before))}
            elif sides is not None:
                scaled = [round(side * size / cropped) for side, cropped in zip(sides, before, strict=True)]
                config["size"] = {"height": scaled[0], "width": scaled[1]}
            config["crop_size"] = {"height": size, "width": size}
        return replace(self, config=config, file=None)

    def write(self, folder: Path) -> None:
        """Put preprocessor_config.json into a folder: the file it was read from, as long as nothing was changed."""
        if self.file is None:
            write_json(folder / FILE, dict(self.config))
        else:
            copy(self.file, folder / FILE)

    # -- what the config says -----------------------------------------------------------------------------------------

    @property
    def _kind(self) -> str:
        named = str(self.config.get("image_processor_type") or self.config.get("feature_extractor_type") or "ViT")
        return next((kind for kind in _USUAL if named.lower().startswith(kind.lower())), "")

    def _said(self, key: str, default: Any = None) -> Any:
        found = self.config.get(key)
        return _USUAL.get(self._kind, {}).get(key, default) if found is None else found

    @property
    def _steps(self) -> tuple[tuple[str, tuple[int, int]], ...]:
        """What is done to an image: ("to", sides), ("shortest", (side, _)), ("crop", sides)."""
        steps: list[tuple[str, tuple[int, int]]] = []
        if self._kind == "ConvNext":
            side = self.shape[0]
            if not self._said("do_resize", True):
                raise self._fault("do_resize", "must be true for images of one shape")
            if side >= _WARPED:
                return (("to", (side, side)),)
            pct = self.config.get("crop_pct") or _CROP_PCT
            return ("shortest", (int(side / pct), 0)), ("crop", (side, side))
        if self._said("do_resize", True):
            sides, shortest = self._sides("size"), self._shortest
            if sides is not None:
                steps.append(("to", sides))
            elif shortest is not None:
                steps.append(("shortest", (shortest, 0)))
        if self._said("do_center_crop"):
            steps.append(("crop", self.shape[:2]))
        return tuple(steps) or (("to", self.shape[:2]),)

    @property
    def _shortest(self) -> int | None:
        """The length of the shorter side after resizing, where that is what `size` says."""
        size = self._said("size")
        if isinstance(size, int):  # as files of transformers v4 have it: a square, but for these
            return size if self._kind in ("ConvNext", "") else None
        return size.get("shortest_edge") if isinstance(size, Mapping) else None

    def _sides(self, key: str) -> tuple[int, int] | None:
        """Height and width; None where only the shorter side is said."""
        size = self._said(key)
        if key == "size" and self._shortest is not None:
            return None
        if isinstance(size, int):
            size = {"height": size, "width": size}
        if not isinstance(size, Mapping) or not all(isinstance(size.get(k), int) for k in ("height", "width")):
            raise self._fault(key, 'must be a number or {"height": …, "width": …}')
        return size["height"], size["width"]

    @cached_property
    def _table(self) -> npt.NDArray[np.float32]:
        """What becomes of each byte, in each channel: float32 `[C, 256]`."""
        bytes_ = np.arange(256, dtype=np.float64)
        factor = float(self._said("rescale_factor", 1 / 255)) if self._said("do_rescale", True) else 1.0
        values: npt.NDArray[np.float32] = np.tile((bytes_ * factor).astype(np.float32), (self.channels, 1))
        if self._said("do_normalize", True):
            mean, std = (self._by_channel(key) for key in ("image_mean", "image_std"))
            if not std.all():
                raise self._fault("image_std", "must not be 0")
            values = (values - mean) / std
        return values

    def _by_channel(self, key: str) -> npt.NDArray[np.float32]:
        said = self._said(key, 0.5)
        found = np.asarray([said] * self.channels if isinstance(said, int | float) else said, np.float32).reshape(-1, 1)
        if len(found) != self.channels:
            if len(np.unique(found)) > 1:
                raise self._fault(key, f"has {len(found)} numbers for {self.channels} channels")
            found = np.tile(found[:1], (self.channels, 1))  # those of colours, for a model of grey images
        return found

    @staticmethod
    def _target(image: Image, step: str, sides: tuple[int, int]) -> tuple[int, int]:
        """Height and width to resize to."""
        if step == "to":
            return sides
        short, (width, height) = sides[0], image.size
        long = int(short * max(width, height) / min(width, height))
        return (long, short) if width <= height else (short, long)

    def _fault(self, key: str, what: str) -> InputError:
        where = self.file or FILE
        return InputError(f"{where}: {key} {what}; it is {json.dumps(self.config.get(key))}")


def _center_crop(image: Image, sides: tuple[int, int]) -> Image:
    """The middle of an image, with black around it where it is smaller."""
    (height, width), (wide, tall) = sides, image.size
    left, top = (wide - width) // 2, (tall - height) // 2
    return image.crop((left, top, left + width, top + height))
