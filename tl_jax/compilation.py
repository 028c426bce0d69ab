"""What XLA compiled for one process serves the next."""

from __future__ import annotations

import hashlib
import json
import os

from tl_jax.cache_folder import cache_folder
from tl_jax.manifest import machine_kind

_LIMIT = 2**30  # bytes of compiled programs; what has not been used for longest goes first
_WORTH = 0.2  # seconds of compilation from which a program is kept


def keep_compilations() -> bool:
    """Turn on JAX's persistent compilation cache, in the user's cache folder; whether that was done.

    Does nothing where the user has one already (`JAX_COMPILATION_CACHE_DIR`, `jax_compilation_cache_dir`), and where
    the folder cannot be written: then everything is compiled anew. Machines of other kinds that share the folder do
    not share programs: one made for another CPU might not run.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return False
    kind = hashlib.sha256(json.dumps(machine_kind(), sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder() / "compiled" / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        return False
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _LIMIT)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH)
    return True
