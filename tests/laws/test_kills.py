"""Law 8: killed at any moment and resumed, a run ends in the same bits as one never killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.conftest import some
from tests.tiny import HEAD, METHODS, Tiny
from tl_jax.cli.main import main
from tl_jax.training import interrupt

STEPPED = sorted(set(METHODS) - {"probe"})
METHOD = "full"  # all leaves, all moments, dropout: the most there is to lose
PATIENCE = 240  # seconds for a process to reach a step, on a busy machine


def steps_logged(run: Path) -> int:
    """The last step in metrics.jsonl."""
    with contextlib.suppress(OSError):
        for line in reversed((run / "metrics.jsonl").read_bytes().splitlines(keepends=True)):
            if line.endswith(b"\n"):
                return int(json.loads(line)["step"])
    return 0


def version(log: Path) -> tuple[int, int] | None:
    """What changes whenever a process writes to the file."""
    with contextlib.suppress(OSError):
        about = log.stat()
        return about.st_mtime_ns, about.st_size
    return None


def wait(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Until something is so, or the process has ended."""
    end = time.monotonic() + PATIENCE
    while not reached() and process.poll() is None:
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.02)


@pytest.mark.parametrize("method", some(STEPPED, METHOD))
def test_killed_at_drawn_moments_and_resumed_to_the_same_bits(
    method: str, tiny: Tiny, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL five times, SIGTERM and Ctrl-C once each, which save first."""
    settings = {"epochs": 15}  # 180 steps, a line in metrics.jsonl for every third one
    never_killed = files.tune(tiny, tmp_path / "whole", method, **settings).folder
    out = tmp_path / "run"
    command = ["finetune", "--model", tiny.mean, "--data", tiny.train, "--eval-data", tiny.test]
    command += [*files.flags(method, **settings), "--out", out]
    # Most while steps are made, one while the run begins to exist, one wherever the clock says.
    steps = iter(sorted(map(int, rng.choice(range(1, 80), 5, replace=False))))
    moments = [(signal.SIGKILL, "step")] * 3 + [(signal.SIGTERM, "step"), (signal.SIGINT, "step")]
    moments += [(signal.SIGKILL, "begin"), (signal.SIGKILL, "clock")]
    rng.shuffle(moments)
    for number, moment in moments:
        log = version(out / "metrics.jsonl")
        process = files.eager(*command, "--resume")
        if moment == "clock":
            time.sleep(float(rng.uniform(0, 1.5)))
        elif moment == "begin":
            known = entries(out)
            wait(process, lambda known=known: entries(out) != known)
        else:
            wanted = next(steps)
            # What an earlier process logged may reach that far already: this one must have begun to log.
            wait(process, lambda n=wanted, old=log: version(out / "metrics.jsonl") != old and steps_logged(out) >= n)
        time.sleep(float(rng.uniform(0, 0.1)))
        process.send_signal(int(number))
        printed, said = process.communicate(timeout=PATIENCE)
        with capsys.disabled():
            print(f"\n{signal.Signals(number).name} by {moment} after {steps_logged(out)} steps", end="")
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), said
        assert printed == "" and not (out / "summary.json").exists()
        if number != signal.SIGKILL:
            check_saved(out, said)
            assert main(["predict", str(out), "where is it"]) == 2
            assert f"the run {out} has not finished: tl-jax finetune --resume --out {out}" in capsys.readouterr().err
    done = files.cli("finetune", "--resume", "--out", out)  # which is all it needs
    assert done.returncode == 0, done.stderr
    assert "resuming after step " in done.stderr
    assert files.result(out) == files.result(never_killed)
    assert not list(out.rglob("*.partial*")) and not list(out.rglob(".tl_jax*"))
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in never_killed.iterdir())


def entries(folder: Path) -> int:
    """How many files and folders lie in it; `os.walk` passes over what the run renames or deletes meanwhile."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def check_saved(out: Path, said: str) -> None:
    """What an interrupted run says, and that it is so."""
    assert "Traceback" not in said
    assert "stopping after this step, saving first" in said
    last = said.splitlines()[-1]
    assert last.endswith("the same command with --resume goes on")
    step = last.split("stopped after step ")[1].split(" of 180, saved")[0]
    assert (out / "checkpoints" / step).is_dir()


def test_ctrl_c_before_training_writes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """Whatever it was doing, the first Ctrl-C ends it: there is nothing yet to save."""
    process = files.eager("finetune", "--model", tiny.mean, "--data", tiny.train, "--out", tmp_path / "run")
    assert process.stderr is not None
    said = list(itertools.takewhile(lambda line: "loading JAX" not in line, process.stderr))
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, [*said, rest]
    assert "Traceback" not in rest and not (tmp_path / "run").exists()


@pytest.mark.parametrize("torn", ["begin", "overwrite"])
def test_what_a_kill_leaves_of_a_run_that_begins_is_no_obstacle(torn: str, tiny: Tiny, tmp_path: Path) -> None:
    """The folder as it is between two writes of `RunFolder.begin`."""
    out = tmp_path / "run"
    before = files.tune(tiny, out, HEAD, epochs=1)
    expected = files.result(out)
    (out / "manifest.json").unlink()
    if torn == "begin":
        for path in (out / "summary.json", out / "metrics.jsonl", out / "experiment.json"):
            path.unlink()
        (out / ".experiment.json.partial").write_text("{", encoding="utf-8")
        for path in sorted((out / "checkpoints").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (out / "checkpoints").rmdir()
    again = files.tune(tiny, out, HEAD, resume=True, epochs=1)
    assert files.result(out) == expected and again.metrics == before.metrics


def test_a_probe_that_is_stopped_begins_anew(
    tiny: Tiny, tuned: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no steps to go on from; it ends the same."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))  # where the features are not yet
    asked = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(interrupt.Interrupt, "requested", property(lambda self: next(asked)))
        with pytest.raises(tl.Interrupted, match="stopped before the features were there: they are made anew"):
            files.tune(tiny, tmp_path / "run", "probe")
    assert next(asked, None) is None
    files.tune(tiny, tmp_path / "run", "probe", resume=True)
    assert files.result(tmp_path / "run") == files.result(tuned("probe").folder)
