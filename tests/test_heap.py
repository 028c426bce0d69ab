"""Memory that a computation frees is used again by the next: in fresh processes, for malloc is told once."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import os, resource, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one thread computes: which of several frees what is chance
from tl_jax.heap import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "told" else None
import jax, jax.numpy as jnp
@jax.jit
def f(x):
    y = jnp.cumsum(x)
    return (jnp.cumsum(y[::-1]) * y).sum()
x = jnp.ones(int(sys.argv[2]))
for _ in range(5):
    f(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    f(x).block_until_ready()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


NUMBERS = 4_000_000  # float32, in an array


def faults(how: str, numbers: int = NUMBERS, **environment: str) -> tuple[str, int]:
    """Whether malloc was told, and how many pages the kernel handed out in ten calls that need arrays of `numbers`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = [sys.executable, "-c", CODE, how, str(numbers)]
    told, count = subprocess.run(
        run, env={**own, **environment}, capture_output=True, text=True, check=True
    ).stdout.split()
    return told, int(count)


HOLES = """
import ctypes
from tl_jax import heap
told = heap.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def block(megabytes):
    place = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(megabytes << 20)))
    ctypes.memset(place, 1, megabytes << 20)
    return place
sizes = []
def now():
    sizes.append(heap.resident_bytes() >> 20)
heap.give_back_if_grown()
now()
step, guard = block(400), block(1)
libc.free(step)
now()
settler = block(1)
step = block(400)  # fits no longer
now()
heap.give_back_if_grown()
now()
libc.free(step)
heap.give_back_if_grown()
now()
print(told, *sizes)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")


@glibc
def test_a_hole_that_fits_no_longer_is_given_back() -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    ran = subprocess.run([sys.executable, "-c", HOLES], env=own, capture_output=True, text=True, check=True)
    told, *sizes = ran.stdout.split()
    small, hole, grown, given_back, freed = map(int, sizes)
    assert told == "True" and hole > small + 380 and grown > hole + 380
    assert given_back < grown - 380
    assert freed == given_back  # nothing grew: what the last step freed stays for the next


@glibc
def test_the_kernel_hands_out_a_page_once() -> None:
    told, kept = faults("told")
    _, given_back = faults("")
    assert told == "True" and kept < given_back / 2
    assert given_back > 10 * NUMBERS * 4 // 4096  # one array of each call at least


def test_what_the_user_sets_up_stays() -> None:
    told, _ = faults("told", 1, MALLOC_ARENA_MAX="2")
    assert told == "False"
