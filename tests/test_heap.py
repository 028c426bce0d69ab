"""Memory that a computation frees is used again by the next: in fresh processes, for malloc is told once."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
from tl_jax.heap import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "told" else None
import jax, jax.numpy as jnp
@jax.jit
def f(x):
    y = jnp.cumsum(x)
    return (jnp.cumsum(jnp.sort(y[::-1])) * y).sum()
x = jnp.ones(4_000_000)
for _ in range(3):
    f(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    f(x).block_until_ready()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> tuple[str, int]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = [sys.executable, "-c", CODE, how]
    told, count = subprocess.run(
        run, env={**own, **environment}, capture_output=True, text=True, check=True
    ).stdout.split()
    return told, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_the_kernel_hands_out_a_page_once() -> None:
    told, kept = faults("told")
    _, given_back = faults("")
    assert told == "True" and kept < given_back / 2
    assert given_back > 10 * 4_000_000 * 4 // 4096  # one array of each call at least


def test_what_the_user_sets_up_stays() -> None:
    told, _ = faults("told", MALLOC_ARENA_MAX="2")
    assert told == "False"
