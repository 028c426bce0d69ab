"""Whatever happens to a run or to its files, restoring gives a whole checkpoint or says why not."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tl_jax.errors import InputError
from tl_jax.training import snapshot
from tl_jax.training.checkpoint import Checkpoints

KILLS = 5


def arrays(step: int) -> dict[str, np.ndarray]:
    """What a run would hold at `step`: every value says which step it is from."""
    return {
        "trainable/layers_0/kernel": np.full((64, 48), step, np.float32),
        "opt_state/0/mu/layers_0/kernel": np.full((64, 48), -step, np.float32),
        "step": np.int32(step),
        "key": np.array([0, step], np.uint32),
        "empty": np.zeros((0, 3), np.float32),
    }


def is_of(restored: Any, step: int) -> bool:
    """Whether `restored` is all of what was saved at `step`."""
    wanted = arrays(step)
    return (
        (restored.step, restored.meta) == (step, {"at": step})
        and list(restored.arrays) == list(wanted)
        and all(restored.arrays[name].tobytes() == array.tobytes() for name, array in wanted.items())
    )


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, arrays(step), {"at": step})


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, said: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path / "run" / "checkpoints", say=said.append)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_nothing_saved_nothing_restored(checkpoints: Checkpoints, said: list[str]) -> None:
    assert checkpoints.steps() == [] and checkpoints.restore() is None and checkpoints.restore_best() is None
    assert not checkpoints.folder.exists() and not said


def test_the_newest_comes_back_and_old_ones_go(checkpoints: Checkpoints, said: list[str]) -> None:
    path = checkpoints.save(0, arrays(0), {"at": 0})
    assert path == checkpoints.folder / "0" and sorted(os.listdir(path)) == ["arrays", "commit.json"]
    save(checkpoints, 9, 10, 100)
    assert checkpoints.steps() == [10, 100] and names(checkpoints) == ["10", "100"]
    assert is_of(checkpoints.restore(), 100) and is_of(checkpoints.restore(10), 10)
    assert not said


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2)
    checkpoints.save(2, arrays(3), {"at": "again"})
    restored = checkpoints.restore()
    assert restored is not None and restored.meta == {"at": "again"} and restored.arrays["step"] == 3
    assert names(checkpoints) == ["1", "2"]


def test_the_best_has_a_place_of_its_own(checkpoints: Checkpoints) -> None:
    for step in (5, 3):  # a best of a lower step replaces one of a higher
        checkpoints.save_best(step, arrays(step), {"at": step})
        assert is_of(checkpoints.restore_best(), step)
    save(checkpoints, 7, 8, 9)
    assert is_of(checkpoints.restore_best(), 3)
    assert names(checkpoints) == ["8", "9", "best"] and checkpoints.steps() == [8, 9]


def test_a_damaged_best_is_said_and_is_none(checkpoints: Checkpoints, said: list[str]) -> None:
    checkpoints.save_best(5, arrays(5), {"at": 5})
    (checkpoints.folder / "best" / "commit.json").write_text("{")
    assert checkpoints.restore_best() is None
    assert said == [
        f"the checkpoint {checkpoints.folder / 'best'} cannot be used: commit.json is truncated, altered or not ours"
    ]


def test_an_explicit_step_is_that_step_or_an_error(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2)
    with pytest.raises(InputError, match=r"no checkpoint of step 3 in .*; choose from 1, 2"):
        checkpoints.restore(3)
    next((checkpoints.folder / "2").rglob("manifest.ocdbt")).unlink()
    with pytest.raises(InputError, match=r"the checkpoint .*/2 cannot be used: arrays/state/.* is missing"):
        checkpoints.restore(2)
    assert is_of(checkpoints.restore(1), 1)


@pytest.mark.parametrize("step", [-1, 1.5, "7"])
def test_a_step_is_a_whole_number(checkpoints: Checkpoints, step: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        checkpoints.save(step, {}, {})


@pytest.mark.parametrize("name", ["7", "", "a/b", "../up", ".tl_jax.partial.3"])
def test_a_name_is_a_word(checkpoints: Checkpoints, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be called"):
        checkpoints.save(1, {}, {}, name=name)


def flip(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def test_every_file_truncated_or_altered_is_noticed(
    checkpoints: Checkpoints, said: list[str], rng: np.random.Generator
) -> None:
    save(checkpoints, 1, 2)
    files = [path for path in sorted((checkpoints.folder / "2").rglob("*")) if path.is_file()]
    harms: dict[str, Callable[[Path], None]] = {
        "flipped": lambda path: flip(path, rng),
        "cut": lambda path: os.truncate(path, int(rng.integers(path.stat().st_size))),
        "deleted": Path.unlink,
    }
    harmed = 0
    for path in files:
        whole = path.read_bytes()
        for harm, do in harms.items():
            if not whole and harm != "deleted":
                continue
            do(path)
            assert is_of(Checkpoints(checkpoints.folder, say=said.append).restore(), 1), (path, harm)
            assert len(said) == 2 and str(path.name) in said[0] and str(checkpoints.folder / "2") in said[0], said
            assert said[1] == "falling back to the last good checkpoint, step 1"
            said.clear()
            path.write_bytes(whole)
            harmed += 1
    assert harmed >= 25 and is_of(checkpoints.restore(), 2)


def test_the_leaf_is_named(checkpoints: Checkpoints, said: list[str]) -> None:
    save(checkpoints, 1, 2)
    leaf = arrays(2)["opt_state/0/mu/layers_0/kernel"].tobytes()
    path = next(path for path in (checkpoints.folder / "2").rglob("d/*") if leaf in path.read_bytes())
    data = bytearray(path.read_bytes())
    data[data.index(leaf) + len(leaf) // 2] ^= 4
    path.write_bytes(data)
    assert is_of(checkpoints.restore(), 1)
    assert "this costs the leaf 'opt_state/0/mu/layers_0/kernel'" in said[0]


def test_all_damaged_is_none(checkpoints: Checkpoints, said: list[str]) -> None:
    save(checkpoints, 1, 2)
    for step in "12":
        (checkpoints.folder / step / "commit.json").unlink()
    assert checkpoints.restore() is None
    assert len(said) == 2 and all("half-written or not ours (no commit.json)" in line for line in said)


def test_damaged_ones_do_not_push_out_good_ones(checkpoints: Checkpoints) -> None:
    checkpoints.keep = 3
    save(checkpoints, 10, 20, 30)
    for step in ("20", "30"):
        next((checkpoints.folder / step).rglob("manifest.ocdbt")).unlink()
    resumed = Checkpoints(checkpoints.folder, keep=2, say=lambda _: None)
    assert is_of(resumed.restore(), 10)
    save(resumed, 25)  # 10 is the only good one beside it; 20 is damaged, 30 lies ahead
    assert resumed.steps() == [10, 25, 30]
    save(resumed, 30)
    assert resumed.steps() == [25, 30] and is_of(resumed.restore(), 30)


def test_clearing_takes_all_of_ours_and_nothing_else(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2)
    checkpoints.save_best(2, arrays(2), {})
    (checkpoints.folder / "3").mkdir()
    (checkpoints.folder / "3" / "mine.txt").write_text("mine")
    checkpoints.clear()
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["3"]
    assert checkpoints.restore_best() is None and (checkpoints.folder / "3" / "mine.txt").exists()


def test_foreign_folders_are_passed_over_and_never_deleted(checkpoints: Checkpoints, said: list[str]) -> None:
    save(checkpoints, 1)
    for name in ("2", "5", "notes", ".tl_jax.partial", "3.aside-1", "007"):
        (checkpoints.folder / name).mkdir()
        (checkpoints.folder / name / "mine.txt").write_text(name)
    (checkpoints.folder / "4").write_text("a file")
    assert checkpoints.steps() == [1] and is_of(checkpoints.restore(), 1)
    assert [line for line in said if "not ours" in line] == said[:2] and "falling back" in said[2]
    before = {path: path.read_text() for path in checkpoints.folder.rglob("mine.txt")}
    save(checkpoints, 2, 3, 6, 7)
    assert checkpoints.steps() == [6, 7]
    aside = checkpoints.folder / "2.aside-1" / "mine.txt"  # it stood where step 2 belongs
    assert aside.read_text() == "2" and "moved to 2.aside-1" in said[-1]
    for path, text in before.items():
        assert path.parent.name == "2" or path.read_text() == text
    assert (checkpoints.folder / "4").read_text() == "a file"


def test_rubbish_of_killed_runs_goes_at_the_next_save_but_not_by_reading(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    for kind in ("partial.2", "deleted.0", "partial.best"):
        (checkpoints.folder / f".tl_jax.{kind}" / "arrays").mkdir(parents=True)
    (checkpoints.folder / "1").rename(checkpoints.folder / ".tl_jax.previous.1")  # killed between two renames
    resumed = Checkpoints(checkpoints.folder)
    assert resumed.steps() == [1] and is_of(resumed.restore(), 1)
    assert len(names(checkpoints)) == 4
    save(resumed, 2)
    assert names(checkpoints) == ["1", "2"] and is_of(resumed.restore(1), 1)


class Killed(BaseException):
    """The process ends here: nothing after it happens."""


def test_killed_at_any_file_operation_a_replacement_is_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The k-th rename or removal of a replacement and everything after it never happen, for every k."""
    old, new = tmp_path / "old", tmp_path / "new"
    for step, folder in ((1, old), (2, new)):
        folder.mkdir()
        snapshot.write(folder, step, arrays(step), {"at": step})
    rename, rmtree = Path.rename, shutil.rmtree
    outcomes = []
    for k in range(10):
        place = Checkpoints(tmp_path / f"kill-{k}", say=lambda _: None)
        partial = place.folder / ".tl_jax.partial.best"
        shutil.copytree(old, place.folder / "best")
        shutil.copytree(new, partial)
        left = k

        def stroke(do: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return do(*args, **kwargs)

            return run

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", stroke(rename))
            patch.setattr(shutil, "rmtree", stroke(rmtree))
            with contextlib.suppress(Killed):
                place._publish(partial, "best")
        restored = place.restore_best()
        assert restored is not None
        assert is_of(restored, restored.step)
        outcomes.append(restored.step)
        place.save(3, {}, {})
        again = place.restore_best()
        assert again is not None and again.step == restored.step and names(place) == ["3", "best"]
        if left:
            break
    assert set(outcomes) == {1, 2} and outcomes == sorted(outcomes) and left


def test_a_rename_that_fails_puts_the_previous_back(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    save(checkpoints, 1)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".partial." in self.name:
            raise OSError(28, "no space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(
        InputError, match=r"could not write the checkpoint .*/1: disk full; .*good checkpoint is step 1"
    ):
        checkpoints.save(1, arrays(9), {})
    assert names(checkpoints) == ["1"] and is_of(checkpoints.restore(), 1)


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"could not write the checkpoint .*: not a directory; there is no earlier"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, {}, {})


def test_what_orbax_refuses_leaves_nothing_behind(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_stored", lambda leaf: np.array(["text"]))
        with pytest.raises(snapshot._Failed):
            checkpoints.save(1, arrays(1), {})
        assert names(checkpoints) == []
    save(checkpoints, 1)
    assert names(checkpoints) == ["1"] and is_of(checkpoints.restore(), 1)


def test_an_interrupted_save_leaves_nothing_behind(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C in the middle of a save."""

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    save(checkpoints, 1)
    monkeypatch.setattr(snapshot, "_seal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, arrays(2), {})
    assert names(checkpoints) == ["1"] and is_of(checkpoints.restore(), 1)


def python(code: str, *args: object, **kwargs: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).resolve().parents[2],
        **kwargs,
    )


FULL = """
import resource, sys
from tests.training.test_checkpoint import arrays, names, save
from tl_jax.errors import InputError
from tl_jax.training.checkpoint import Checkpoints

checkpoints = Checkpoints(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in map(int, sys.argv[2:]):
    for name in (None, "best"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            big = arrays(1)["trainable/layers_0/kernel"].repeat(9, 0)
            checkpoints.save(3, {"big": big, **arrays(3)}, {}, name=name)
            outcome = "saved"
        except InputError as error:
            outcome = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        print(names(checkpoints), outcome, sep=";")
save(checkpoints, 3)
print(checkpoints.steps())
"""


def test_a_full_disk_is_said_and_leaves_what_was_there(checkpoints: Checkpoints, rng: np.random.Generator) -> None:
    save(checkpoints, 1, 2)
    checkpoints.save_best(1, arrays(1), {"at": 1})
    limits = [0, 40, 300, *rng.integers(0, 100_000, 3).tolist()]
    process = python(FULL, checkpoints.folder, *limits)
    out, err = process.communicate(timeout=100)
    *lines, last = out.splitlines()
    assert (process.returncode, err) == (0, "") and last == "[2, 3]"
    assert len(lines) == 2 * len(limits)
    for i, line in enumerate(lines):
        there, outcome = line.split(";", 1)
        assert there == "['1', '2', 'best']"
        assert outcome == (
            f"could not write the checkpoint {checkpoints.folder / ('best' if i % 2 else '3')}: file too large; "
            "the last good checkpoint is step 2"
        )
    assert is_of(checkpoints.restore(), 3) and is_of(checkpoints.restore_best(), 1)


LOOP = """
import sys
from tests.training.test_checkpoint import arrays, is_of, save
from tl_jax.training.checkpoint import Checkpoints

checkpoints = Checkpoints(sys.argv[1])
last, best = checkpoints.restore(), checkpoints.restore_best()
assert last is None or is_of(last, last.step)
assert best is None or is_of(best, best.step)
step = 0 if last is None else last.step
for step in range(step + 1, step + 10_000):
    save(checkpoints, step)
    print(step, flush=True)
    checkpoints.save_best(step, arrays(step), {"at": step})
"""


def test_killed_while_saving_the_last_commit_is_whole(tmp_path: Path, seed: int, said: list[str]) -> None:
    """Each process resumes where the one before it was killed, in the middle of a save."""
    draw = random.Random(seed)
    folder = tmp_path / "checkpoints"
    reported = 0
    for _ in range(KILLS):
        process = python(LOOP, folder)
        try:
            assert process.stdout is not None and process.stderr is not None
            first = process.stdout.readline()
            assert first, process.stderr.read()
            time.sleep(draw.uniform(0, 0.25))
        finally:
            process.kill()
        out, err = process.communicate()
        assert process.returncode == -signal.SIGKILL and err == ""
        assert int(first) > reported  # nothing that was reported as saved was lost
        whole = [line for line in (first + out).splitlines(keepends=True) if line.endswith("\n")]
        reported = int(whole[-1])
        checkpoints = Checkpoints(folder, say=said.append)
        last, best = checkpoints.restore(), checkpoints.restore_best()
        assert last is not None and is_of(last, last.step) and last.step in (reported, reported + 1)
        assert best is None or (is_of(best, best.step) and best.step <= last.step)
    assert not said
