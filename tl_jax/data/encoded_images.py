"""Encoded images: bytes of one shape, scaled as they are put into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tl_jax.data.augmentation import Augmentation
from tl_jax.data.encoded import Batch, Examples, Feature
from tl_jax.data.noise import position_noise
from tl_jax.pictures import Picture

Pixels = npt.NDArray[np.uint8]


class Processor(Protocol):
    """What `EncodedImages` needs of a model's processor."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def mode(self) -> str: ...

    @property
    def resample(self) -> int: ...

    @property
    def identity(self) -> str: ...

    def pixels(self, picture: Picture) -> Pixels: ...

    def scaled(self, pixels: Pixels) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, eq=False)
class EncodedImages(Examples):
    """N images as a model reads them.

    pictures: the images as they came, N of them.
    processor: what makes pixels of a picture, uint8 [H, W, C], and float32 of pixels.
    pixels: uint8 [M, H, W, C], those of example i at `places[i]`, perhaps on disk; None: they are made for each batch.
    """

    pictures: Sequence[Picture]
    processor: Processor
    targets: npt.NDArray[Any]
    index: npt.NDArray[np.int32]
    pixels: Pixels | None = None
    places: npt.NDArray[np.int64] | None = None
    features: Mapping[str, Feature] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.processor.shape

    def select(self, places: Iterable[int]) -> EncodedImages:
        chosen = [int(i) for i in places]
        return EncodedImages(
            [self.pictures[i] for i in chosen],
            self.processor,
            self.targets[chosen],
            self.index[chosen],
            self.pixels,
            None if self.places is None else self.places[chosen],
        )

    def facts(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        digest = hashlib.sha256(self.processor.identity.encode())
        for picture in self.pictures:
            digest.update(picture.digest.encode())
        yield "images", np.frombuffer(digest.digest(), np.uint8)

    def rows(self, key: str) -> int:
        return len(self)

    def span(self, key: str, i: int) -> slice:
        return slice(i, i + 1)

    def batch(
        self,
        places: npt.NDArray[np.int64],
        rows: int,
        change: Augmentation | None = None,
        key: tuple[int, int] = (0, 0),
    ) -> Batch:
        """The examples at `places` as a batch of `rows` rows; rows beyond them are padding.

        image float32 [rows, H, W, C]; noise uint32 [rows, 1]; targets [rows, …]; weights float32 and index int32
        [rows]. Rows of padding have weight 0, index -1 and target 0; they show the batch's own images again, so that a
        batch norm sees no others. Examples that have features are given by these alone. A `change` is drawn for each
        example by `key` (seed and step).
        """
        count = len(places)
        index = np.full(rows, -1, np.int32)
        index[:count] = self.index[places]

        def laid(values: Any) -> npt.NDArray[Any]:
            found = np.zeros((rows, *values.shape[1:]), values.dtype)
            found[:count] = values
            return found

        again = np.resize(np.arange(count), rows)
        given = {name: feature.values[places[again]] for name, feature in self.features.items()}
        if not given:
            given["image"] = self.processor.scaled(self._pixels(places, change, key))[again]
        return {
            **given,
            "noise": position_noise(index, np.zeros_like(index))[:, None],
            "targets": laid(self.targets[places]),
            "weights": (index >= 0).astype(np.float32),
            "index": index,
        }

    def _pixels(self, places: npt.NDArray[np.int64], change: Augmentation | None, key: tuple[int, int]) -> Pixels:
        if change is None:
            return np.stack([self._whole(i) for i in places])
        changed = (
            change(self.pictures[i], self.processor, partial(self._whole, i), (*key, int(self.index[i])))
            for i in places
        )
        return np.stack(list(changed))

    def _whole(self, i: int) -> Pixels:
        if self.pixels is None or self.places is None:
            return self.processor.pixels(self.pictures[i])
        found: Pixels = self.pixels[self.places[i]]
        return found
