"""Where everything that tl_jax keeps between runs lies. All of it can be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "TL_JAX_CACHE"  # the environment variable


def cache_folder() -> Path:
    """`TL_JAX_CACHE`, else tl_jax in the user's cache folder."""
    if own := os.environ.get(FOLDER):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tl_jax"
