"""Weights made elsewhere, in and out: Hugging Face folders and hub repositories."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "ImageProcessor": "image_processor",
    "OwnTokenizer": "own_tokenizer",
    "Source": "sources",
    "TextProcessor": "tokenizer",
    "check_name": "loading",
    "check_unchanged": "sources",
    "convert": "converting",
    "fingerprint": "sources",
    "load": "loading",
    "load_into": "own_files",
    "reads_images": "loading",
    "resolve": "hub",
    "save": "saving",
}
__all__ = [
    "ImageProcessor",
    "OwnTokenizer",
    "Source",
    "TextProcessor",
    "check_name",
    "check_unchanged",
    "convert",
    "fingerprint",
    "load",
    "load_into",
    "reads_images",
    "resolve",
    "save",
]

if TYPE_CHECKING:
    from tl_jax.pretrained.converting import convert
    from tl_jax.pretrained.hub import resolve
    from tl_jax.pretrained.image_processor import ImageProcessor
    from tl_jax.pretrained.loading import check_name, load, reads_images
    from tl_jax.pretrained.own_files import load_into
    from tl_jax.pretrained.own_tokenizer import OwnTokenizer
    from tl_jax.pretrained.saving import save
    from tl_jax.pretrained.sources import Source, check_unchanged, fingerprint
    from tl_jax.pretrained.tokenizer import TextProcessor


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
