"""Features on disk: there as a whole or not at all, whatever happens to the disk or beside it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tl_jax.errors import InputError
from tl_jax.training import feature_store
from tl_jax.training.feature_store import FeatureStore

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)
SHAPES = {"pooled": (VALUES.shape, VALUES.dtype)}


def fill(arrays: Any) -> None:
    arrays["pooled"][:] = VALUES


def forbidden(arrays: Any) -> None:
    raise AssertionError("computed again")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> FeatureStore:
    return FeatureStore(tmp_path / "features", said.append)


def entries(store: FeatureStore) -> list[str]:
    assert store.folder is not None
    return sorted(path.name for path in store.folder.iterdir())


def test_what_is_made_is_found_as_it_was_and_cannot_be_changed(store: FeatureStore, said: list[str]) -> None:
    assert store.find("one") is None
    again = FeatureStore(store.folder, said.append)
    for found in (store.make("one", SHAPES, fill), store.find("one"), again.find("one")):
        assert found is not None
        np.testing.assert_array_equal(found["pooled"], VALUES)
        assert found["pooled"].dtype == VALUES.dtype and not found["pooled"].flags.writeable
    assert entries(store) == ["one"] and said == []


def test_brain_floats_are_kept_as_such(store: FeatureStore) -> None:
    import jax.numpy as jnp

    def fill(arrays: Any) -> None:
        arrays["pooled"][:] = VALUES.astype(jnp.bfloat16)

    store.make("one", {"pooled": (VALUES.shape, jnp.bfloat16)}, fill)
    found = store.find("one")
    assert found is not None and found["pooled"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found["pooled"]), VALUES.astype(jnp.bfloat16))


def test_without_a_folder_nothing_is_written(tmp_path: Path, said: list[str]) -> None:
    store = FeatureStore(None, said.append)
    made = store.make("one", SHAPES, fill)
    assert made is not None and store.find("one") is made
    np.testing.assert_array_equal(made["pooled"], VALUES)
    assert list(tmp_path.iterdir()) == [] and said == []


def truncated(place: Path) -> None:
    content = (place / "pooled.npy").read_bytes()
    (place / "pooled.npy").write_bytes(content[:-1])


def altered(place: Path) -> None:
    content = bytearray((place / "pooled.npy").read_bytes())
    content[-3] ^= 1
    (place / "pooled.npy").write_bytes(content)


def without_array(place: Path) -> None:
    (place / "pooled.npy").rename(place / "other.npy")


def with_half_an_entry(place: Path) -> None:
    (place / "entry.json").write_text('{"files": {"pooled": ')


def with_another_entry(place: Path) -> None:
    (place / "entry.json").write_text("[1, 2]")


def with_a_path_out(place: Path) -> None:
    (place / "entry.json").write_text('{"files": {"../../secret": "00"}}')


DAMAGES = [truncated, altered, without_array, with_half_an_entry, with_another_entry, with_a_path_out]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_made_again(damage: Callable[[Path], None], store: FeatureStore, said: list[str]) -> None:
    assert store.folder is not None
    store.make("one", SHAPES, fill)
    damage(store.folder / "one")
    assert store.find("one") is None
    assert f"{store.folder / 'one'} are damaged" in said[0]
    store.make("one", SHAPES, fill)
    found = store.find("one")
    assert found is not None
    np.testing.assert_array_equal(found["pooled"], VALUES)


def test_what_fails_to_be_computed_leaves_nothing(store: FeatureStore) -> None:
    def stopped(arrays: Any) -> None:
        arrays["pooled"][:2] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make("one", SHAPES, stopped)
    assert entries(store) == [] and store.find("one") is None


def test_a_process_that_is_killed_leaves_nothing_that_is_found(store: FeatureStore) -> None:
    code = (
        "import os, signal, sys, numpy as np; from pathlib import Path\n"
        "from tl_jax.training.feature_store import FeatureStore\n"
        "def killed(arrays): arrays['pooled'][:2] = 1; os.kill(os.getpid(), signal.SIGKILL)\n"
        "FeatureStore(Path(sys.argv[1]), print).make('one', {'pooled': ((3, 4), np.float32)}, killed)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.folder)], check=False).returncode == -9
    assert store.find("one") is None
    (left,) = entries(store)
    assert left.startswith(".one.")
    store.make("one", SHAPES, fill)
    assert left in entries(store)  # it might be at work yet
    assert store.folder is not None
    os.utime(store.folder / left, (time.time() - 2 * 24 * 3600,) * 2)
    store.make("two", SHAPES, fill)
    assert entries(store) == ["one", "two"]


def test_two_processes_may_make_the_same(store: FeatureStore) -> None:
    code = (
        "import sys, time, numpy as np; from pathlib import Path\n"
        "from tl_jax.training.feature_store import FeatureStore\n"
        "def slow(arrays):\n"
        "    for i in range(3): arrays['pooled'][i] = np.arange(4 * i, 4 * i + 4); time.sleep(0.2)\n"
        "made = FeatureStore(Path(sys.argv[1]), print).make('one', {'pooled': ((3, 4), np.float32)}, slow)\n"
        "assert (np.asarray(made['pooled']).ravel() == np.arange(12)).all()\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(store.folder)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    found = store.find("one")
    assert found is not None and entries(store) == ["one"]
    np.testing.assert_array_equal(found["pooled"], VALUES)


def test_a_disk_that_is_full(store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    made = store.make("one", SHAPES, fill)
    assert made is not None
    np.testing.assert_array_equal(made["pooled"], VALUES)
    assert said == [
        f"features cannot be kept in {store.folder} (No space left on device): they are kept in memory, if they fit"
    ]
    assert entries(store) == []


def test_a_file_that_may_not_grow(store: FeatureStore) -> None:
    """A real limit of the system's, in a process of its own."""
    code = (
        "import resource, signal, sys, numpy as np; from pathlib import Path\n"
        "from tl_jax.training.feature_store import FeatureStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "def fill(arrays): arrays['pooled'][:] = 7\n"
        "made = FeatureStore(Path(sys.argv[1]), print).make('one', {'pooled': ((300, 4), np.float32)}, fill)\n"
        "assert (np.asarray(made['pooled']) == 7).all()\n"
    )
    run = [sys.executable, "-c", code, str(store.folder)]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "cannot be kept" in out and "File too large" in out
    assert entries(store) == [] and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_folder_that_cannot_be_written(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    made = FeatureStore(tmp_path / "file" / "features", said.append).make("one", SHAPES, fill)
    assert made is not None and "cannot be kept" in said[0] and "Not a directory" in said[0]


def test_what_is_not_used_for_longest_makes_room(
    store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(feature_store.LIMIT, str(800 / 2**30))  # an entry is some 260 bytes
    assert store.folder is not None
    for i, key in enumerate(["one", "two", "three"]):
        store.make(key, SHAPES, fill)
        os.utime(store.folder / key / "entry.json", (1000 + i,) * 2)
    held = store.find("two")
    assert held is not None and store.find("one") is not None  # used now
    store.make("four", SHAPES, fill)
    assert "three" not in entries(store) and "four" in entries(store)
    np.testing.assert_array_equal(held["pooled"], VALUES)  # whoever has it open goes on reading


def test_what_is_larger_than_all_it_may_hold(
    store: FeatureStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(feature_store.LIMIT, "0")
    assert store.make("one", SHAPES, fill) is not None
    assert "more than the cache may hold" in said[0] and feature_store.LIMIT in said[0]
    monkeypatch.setattr(feature_store, "_MEMORY", 10)
    assert store.make("one", SHAPES, forbidden) is None
    assert "too many to keep" in said[-1]


@pytest.mark.parametrize("value", ["much", "-1", "nan"])
def test_a_limit_that_is_no_number(value: str, store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(feature_store.LIMIT, value)
    with pytest.raises(InputError, match="TL_JAX_CACHE_GIB must be a number of GiB"):
        store.make("one", SHAPES, fill)
