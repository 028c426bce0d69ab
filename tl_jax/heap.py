"""What a step frees stays with the process, for the next step to use."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # glibc's malloc.h
_OWN = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Tell glibc's malloc not to give memory back to the system; whether it was told.

    XLA on a CPU allocates the temporary arrays of a step anew each time, some hundred megabytes. By default they come
    from the system and go back to it, and the kernel clears every page again. Works best before JAX starts its threads,
    which then share one heap. Does nothing where malloc is not glibc's, or where the environment sets it up already
    (`MALLOC_…`, `GLIBC_TUNABLES`).
    """
    if sys.platform != "linux" or any(name in os.environ for name in _OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20), (_ARENA_MAX, 1))
    return all(mallopt(name, value) == 1 for name, value in settings)
