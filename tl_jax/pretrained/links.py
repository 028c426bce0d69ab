"""Links in a model's folder: those that stay in it are followed, and those of the hub's cache.

A folder from elsewhere may hold a link to any file of this machine, and what a model carries along, such as its
tokenizer's files, is copied into what is exported: somebody's key would be published as `added_tokens.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tl_jax.errors import InputError


def check(folder: Path, files: Iterable[Path]) -> None:
    """Raise `InputError` for a file of a model's `folder`, or of a folder in it, that leads out of it.

    In the hub's cache every file of `snapshots/<commit>` is a link into `blobs` beside `snapshots`.
    """
    home = folder.resolve()
    allowed = [home, *(blobs for part in (home, *home.parents) if (blobs := _blobs(part)))]
    for path in files:
        real = path.resolve()
        if not any(real.is_relative_to(place) for place in allowed):
            raise InputError(
                f"{path} is a link to {real}, out of the model's folder, and is not followed: put a copy of the file "
                "in its place, if it belongs to the model"
            )


def _blobs(snapshot: Path) -> Path | None:
    return (snapshot.parent.parent / "blobs").resolve() if snapshot.parent.name == "snapshots" else None
