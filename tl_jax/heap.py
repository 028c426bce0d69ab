"""What a step frees stays with the process, for the next step to use."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # glibc's malloc.h
_TOP = 64 * 2**20  # bytes by which the heap grows at least
_GROWN = 1.5  # times as large as it was: each time costs the next step a few hundred milliseconds per gigabyte
_OWN = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")

_kept = False  # whether malloc was told
_resident = 0  # bytes, after the last time something was given back


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
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _TOP), (_ARENA_MAX, 1))
    global _kept
    _kept = all(mallopt(name, value) == 1 for name, value in settings)
    return _kept


def give_back_if_grown() -> None:
    """Give what is free back to the system, where `keep_freed_memory` keeps it and the process grew by half since.

    Now and then something small settles in the hole that the arrays of a step left. The next step's no longer fit, the
    process grows by all of them, and the hole would stay. Costs microseconds while nothing grows.
    """
    global _resident
    if not _kept or resident_bytes() < _GROWN * _resident:
        return
    ctypes.CDLL(None).malloc_trim(0)
    _resident = resident_bytes()


def resident_bytes() -> int:
    """What of this process lies in memory, on Linux."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
