"""A disk that is full and a folder that may not be written: which, and nothing half-written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from tests import tiny as files
from tests.shell import Shell

LIMITED = (
    "import resource, sys\nlimit = int(sys.argv[1])\nresource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
) + files.EAGER.replace("sys.argv[1:]", "sys.argv[2:]")


def limited(limit: int, *args: Any) -> subprocess.CompletedProcess[str]:
    """`tl-jax args…` where no file can grow beyond `limit` bytes, as on a full disk."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *map(str, args)],
        env={**files.environment(), "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("limit", "flags", "file"),
    [
        pytest.param(300, "", "experiment.json", marks=pytest.mark.full),
        (3000, "", "checkpoints/1"),  # what the run begins with is smaller
        pytest.param(9000, "--epochs 5", "metrics.jsonl", marks=pytest.mark.full),  # so are the checkpoints of a head
    ],
)
def test_a_disk_that_is_full(limit: int, flags: str, file: str, shell: Shell) -> None:
    command = shell.finetune(*flags.split())
    done = limited(limit, *command)
    assert done.returncode == 2, done.stderr
    said = done.stderr.partition("error: ")[2]
    assert re.search(rf"(cannot|could not) write .*{re.escape(str(shell.folder / 'run'))}.*{file}", said), said
    assert "file too large" in said.lower() and "Traceback" not in said
    run = shell.folder / "run"
    assert not [p for p in run.rglob("*") if ".partial" in p.name or ".tl_jax" in p.name]
    assert not (run / "summary.json").exists()
    code, _, _ = shell(*command, "--resume")  # with room again it goes on
    assert code == 0 and (run / "summary.json").exists()


def test_a_folder_that_may_not_be_written(shell: Shell) -> None:
    if os.geteuid() == 0:
        blocked = "/proc/run"  # even root cannot write there
    else:
        (shell.folder / "locked").mkdir(mode=0o500)
        blocked = str(shell.folder / "locked" / "run")
    said = shell.refuses(*shell.finetune("--out", blocked))
    assert f"cannot write the run to {blocked}" in said
