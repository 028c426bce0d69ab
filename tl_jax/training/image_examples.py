"""From pictures to encoded examples: each opened once and kept as bytes, on disk between runs; broken ones named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tl_jax import data
from tl_jax.cache_folder import cache_folder
from tl_jax.errors import InputError
from tl_jax.pictures import Picture
from tl_jax.training.feature_store import Arrays, FeatureStore

_SHOWN = 40  # broken images in a message


class PreparedImages(NamedTuple):
    """Encoded examples, and what is wrong with each image that was left out."""

    examples: data.EncodedImages
    faults: tuple[str, ...]

    def note(self, name: str = "") -> str:
        """A sentence on what was left out; empty if nothing was."""
        if not self.faults:
            return ""
        count = len(self.faults)
        return f"{count:,} of {count + len(self.examples):,} {name} images cannot be read and are left out:\n".replace(
            "  ", " "
        ) + _listed(self.faults)


def image_store(say: Callable[[str], object], *, keep: bool = True) -> FeatureStore:
    """Where images are kept as bytes: the user's cache folder, or with `keep` False memory alone."""
    folder = cache_folder() / "images" if keep else None
    return FeatureStore(folder, say, what="images", otherwise="each is opened whenever it is needed")


def prepare_images(
    pictures: Sequence[Picture],
    processor: Any,
    store: FeatureStore,
    *,
    corrupt: str = "refuse",
    targets: Any = None,
) -> PreparedImages:
    """Encode images, with their targets where there are any; an example's index is its place in `pictures`.

    Every image is opened, and those that cannot be read are told of together: `corrupt` "refuse" raises `InputError`
    with their names, "skip" leaves them out, though not all where there are targets. Where there is no room to keep
    them they are opened again for each batch.
    """
    shape = (len(pictures), *processor.shape)
    arrays = store.find(key := _key(pictures, processor))
    if arrays is None:
        store.say(f"opening {len(pictures):,} images")

        def fill(arrays: Arrays) -> None:
            for i, picture in enumerate(pictures):
                pixels = _pixels(picture, processor)
                arrays["good"][i] = pixels is not None
                arrays["pixels"][i] = 0 if pixels is None else pixels

        arrays = store.make(key, {"pixels": (shape, np.uint8), "good": (shape[:1], np.uint8)}, fill)
    if arrays is None:
        good = np.array([_pixels(picture, processor) is not None for picture in pictures], bool)
    else:
        good = np.asarray(arrays["good"]) > 0
    faults = tuple(_fault(picture, processor) for picture, fine in zip(pictures, good, strict=True) if not fine)
    if faults and corrupt == "refuse":
        raise InputError(
            f"{len(faults):,} of {len(pictures):,} images cannot be read (--corrupt skip leaves them out):\n"
            + _listed(faults)
        )
    if targets is not None and not good.any():
        raise InputError(f"none of the {len(pictures):,} images can be read:\n" + _listed(faults))
    places = np.flatnonzero(good)
    wanted = np.zeros(len(pictures), np.int32) if targets is None else np.asarray(targets)
    examples = data.EncodedImages(
        [picture for picture, fine in zip(pictures, good, strict=True) if fine],
        processor,
        wanted[places],
        places.astype(np.int32),
        None if arrays is None else arrays["pixels"],
        places,
    )
    return PreparedImages(examples, faults)


def _key(pictures: Sequence[Picture], processor: Any) -> str:
    digest = hashlib.sha256(processor.identity.encode())
    for picture in pictures:
        digest.update(picture.digest.encode())
    return digest.hexdigest()[:40]


def _pixels(picture: Picture, processor: Any) -> Any:
    """The pixels of a picture; None if it cannot be read."""
    try:
        return processor.pixels(picture)
    except InputError:
        return None


def _fault(picture: Picture, processor: Any) -> str:
    """What is wrong with a picture that could not be read."""
    try:
        processor.pixels(picture)
    except InputError as e:
        return str(e)
    return f"{picture.name}: it could not be read before"


def _listed(faults: Sequence[str]) -> str:
    more = [f"  … and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else []
    return "\n".join([*(f"  {fault}" for fault in faults[:_SHOWN]), *more])
