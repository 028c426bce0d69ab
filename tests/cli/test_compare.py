"""`tl-jax compare`: real processes, real signals, and mistakes that write nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny as files
from tests.tiny import Tiny
from tl_jax.cli.main import main

FEW = ["--methods", "probe,lora:rank=4", "--shots", "4,all", "--seeds", "2", "--steps", "6", "--batch-size", "16"]


def command(tiny: Tiny, out: Path, *more: Any) -> list[str]:
    given = ["compare", "--model", tiny.mean, "--data", tiny.train, "--eval-data", tiny.test, *FEW, "--out", out, *more]
    return list(map(str, given))


def kept(out: Path) -> int:
    return len(list((out / "cells").glob("*.json")))


def test_killed_at_drawn_moments_and_resumed_it_prints_the_same_table(
    tiny: Tiny, tmp_path: Path, rng: np.random.Generator
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "c"
    never = files.cli(*command(tiny, whole))
    assert never.returncode == 0, never.stderr
    numbers = [signal.SIGKILL, signal.SIGINT, signal.SIGKILL]
    for number, cells in zip(numbers, sorted(rng.choice(range(1, 5), 3, replace=False)), strict=True):
        process = subprocess.Popen(
            [sys.executable, "-m", "tl_jax", *command(tiny, out, "--resume")],
            env=files.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        before, end = kept(out), time.monotonic() + 240
        while not (kept(out) >= cells and kept(out) > before) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(number)
        printed, said = process.communicate(timeout=240)
        assert process.returncode == (130 if number == signal.SIGINT else -number), said
        assert printed == "" and "Traceback" not in said and not (out / "table.json").exists()
        if number == signal.SIGINT:
            assert "the cells before it are kept; the same command with --resume goes on" in said
    done = files.cli(*command(tiny, out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert clockless(done.stdout) == clockless(never.stdout).replace(str(whole), str(out))
    tables = [json.loads((folder / "table.json").read_text()) for folder in (whole, out)]
    assert [t.pop("time") is not None for t in tables] == [True, True] and tables[0] == tables[1]
    assert not list(out.rglob("*.partial*"))


def clockless(printed: str) -> str:
    """Without the column of seconds."""
    lines = []
    for line in printed.splitlines():
        words = line.split("  ")
        lines.append([word.strip() for word in words if word.strip() and not word.strip().replace(".", "").isdigit()])
    return repr(lines)


def test_what_it_prints(tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "c"
    assert main(command(tiny, out, "--methods", "probe", "--shots", "4", "--seeds", "1")) == 0
    printed, said = capsys.readouterr()
    assert printed.splitlines()[0].split()[:3] == ["method", "labels", "a"]
    assert printed.splitlines()[-1] == f"the curve: {out / 'curve.png'}" and (out / "curve.png").is_file()
    assert "note: one seed gives no interval" in printed and "scratch was not run" in printed
    assert "cell 1 of 1: probe, 4 labels a class, seed 0: accuracy" in said


def test_a_dry_run(tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    assert main(command(tiny, tmp_path / "c", "--dry-run")) == 0
    assert "2 methods × 2 sizes × 2 seeds" in capsys.readouterr().out and not (tmp_path / "c").exists()


def test_fewer_examples_than_shots_are_named_and_used(tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    rows = [row for row in files.messages(120) if row[1] != "billing"] + files.messages(9, seed=4)
    data = files.write_csv(tmp_path / "few.csv", rows)
    given = ["compare", "--model", tiny.mean, "--data", data, "--methods", "probe", "--shots", "16", "--seeds", "2"]
    assert main([*map(str, given), "--out", str(tmp_path / "c")]) == 0
    printed, _ = capsys.readouterr()
    assert "note: fewer than 16 examples, all of them used: 'billing' (" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "probe,fulll"], "unknown method 'fulll'; did you mean 'full'?"),
        (["--methods", "probe,probe"], "--methods names probe twice"),
        (["--methods", "probe,,full"], "has an empty place"),
        (["--shots", "some"], "--shots takes labels a class, such as 8, or all, not 'some'"),
        (["--shots", "0,all"], "--shots takes labels a class"),
        (["--seeds", "0"], "--seeds: '0' is not a whole number from 1 up"),
        (["--seed", "3"], "--seed"),
        (["--lr", "-1"], "--lr"),
        (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
        (["--data", "absent.csv"], "absent.csv"),
        (["--num_train_epochs", "3"], "--epochs"),
    ],
)
def test_mistakes_write_nothing(more: list[str], message: str, tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    assert main(command(tiny, tmp_path / "c", *more)) == 2
    printed, said = capsys.readouterr()
    assert printed == "" and message in said and "Traceback" not in said and not (tmp_path / "c").exists()


def test_a_class_only_in_the_evaluation_data(tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    data = files.write_csv(tmp_path / "new.csv", [*files.messages(9), ("what is this", "novel")])
    assert main(command(tiny, tmp_path / "c", "--eval-data", data)) == 2
    assert "novel" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_a_comparison_of_other_data_is_not_gone_on_with(tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    out, few = tmp_path / "c", ["--methods", "probe", "--shots", "4", "--seeds", "1"]
    assert main(command(tiny, out, *few)) == 0
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    other = files.write_csv(tmp_path / "other.csv", files.messages(90, seed=9))
    for more, message in (
        (["--data", str(other), "--resume"], "the data changed since it began"),
        (["--epochs", "1", "--resume"], "exclude"),
        (["--batch-size", "8", "--resume"], "--batch-size is 8, the comparison has 16"),
        ([], "holds a comparison already: --resume goes on with it"),
    ):
        assert main(command(tiny, out, *few, *more)) == 2
        assert message in capsys.readouterr().err
        assert {path: path.read_bytes() for path in out.rglob("*.json")} == before
