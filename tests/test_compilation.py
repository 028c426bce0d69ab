"""The compilation cache, in processes of their own: it saves compilations, and never changes or stops a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
import jax, jax.numpy as jnp
from tl_jax import compilation
compilation._WORTH = 0.0
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
kept = compilation.keep_compilations()
x = jnp.arange(1000.0)
found = jax.jit(lambda x: jnp.sin(x).cumsum() @ jnp.cos(x))(x)
print(kept, len(hits), float(found).hex())
"""


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    given = {**own, "TL_JAX_CACHE": str(cache), **environment}
    return subprocess.Popen([sys.executable, "-c", CODE], env=given, stdout=subprocess.PIPE, text=True)


def done(process: subprocess.Popen[str]) -> tuple[bool, int, str]:
    out, _ = process.communicate()
    assert process.returncode == 0
    kept, hits, found = out.split()
    return kept == "True", int(hits), found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is computed without a cache: its folder is a file."""
    file = tmp_path_factory.mktemp("cache") / "file"
    file.write_text("in the way")
    kept, hits, found = done(start(file))
    assert not kept and hits == 0
    return found


def test_a_second_process_compiles_nothing(tmp_path: Path, plain: str) -> None:
    assert done(start(tmp_path)) == (True, 0, plain)
    kept, hits, found = done(start(tmp_path))
    assert kept and hits > 0 and found == plain


def test_two_at_once(tmp_path: Path, plain: str) -> None:
    both = [start(tmp_path), start(tmp_path)]
    assert [done(process)[2] for process in both] == [plain, plain]
    assert done(start(tmp_path))[1] > 0


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_damaged_entries_are_compiled_again(damage: str, tmp_path: Path, plain: str) -> None:
    done(start(tmp_path))
    entries = [path for path in tmp_path.rglob("*-cache") if path.is_file()]
    assert entries
    for path in entries:
        content = bytearray(path.read_bytes())
        if damage == "altered":
            content[len(content) // 2] ^= 0xFF
        path.write_bytes({"cut": content[: len(content) // 2], "altered": content, "empty": b""}[damage])
    assert done(start(tmp_path))[2] == plain


def test_a_cache_of_the_user_s_own_stays(tmp_path: Path, plain: str) -> None:
    kept, _, found = done(start(tmp_path / "ours", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "theirs")))
    assert not kept and found == plain and not (tmp_path / "ours").exists()
