"""What is written stays written: files and names put on disk before anything relies on them."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from pathlib import Path


def sync(path: Path) -> None:
    """Have the system put a file, or a folder's list of names, on disk. Raises `OSError` for a file it cannot.

    Some file systems cannot do it for a folder, and nothing else is to be done there.
    """
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
