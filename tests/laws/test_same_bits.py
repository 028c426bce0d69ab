"""Law 9: the same experiment on the same machine gives the same bits: other processes, folders and empty caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny as files
from tests.conftest import SEED, some
from tests.tiny import HEAD, METHODS

STEPPED = sorted(set(METHODS) - {"probe"})
DRAWN = STEPPED[SEED // 7 % len(STEPPED)]


@pytest.mark.parametrize("method", some(METHODS, DRAWN))
def test_two_processes_two_folders_empty_caches(method: str, tmp_path: Path) -> None:
    results = []
    for name in ("one", "an other"):
        folder = tmp_path / name
        tiny = files.make(folder)  # weights and data are written anew
        command = [
            "finetune",
            "--model",
            "mean",
            "--data",
            "messages.csv",
            *files.flags(method, epochs=1),
            "--out",
            "run",
        ]
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache" / "jax"), "TL_JAX_CACHE": str(folder / "cache")}
        done = files.cli(*command, cwd=folder, **cache, JAX_DISABLE_MOST_OPTIMIZATIONS="true")
        assert done.returncode == 0, done.stderr
        # It was empty, and it was used: for what was compiled, or for features.
        assert any(path.is_file() for path in (folder / "cache").rglob("*"))
        results.append((files.result(folder / "run"), (tiny.folder / "run" / "experiment.json").read_text()))
    assert results[0] == results[1]


def test_another_seed_gives_other_bits(tmp_path: Path) -> None:
    """Were the seed without effect, the law above would be empty."""
    tiny = files.make(tmp_path)
    results = []
    for seed in (0, 1):
        files.tune(tiny, tmp_path / str(seed), HEAD, seed=seed, epochs=1)
        results.append(files.result(tmp_path / str(seed)))
    assert results[0]["best"].keys() == results[1]["best"].keys()
    assert not set(results[0]["best"].values()) & set(results[1]["best"].values())
