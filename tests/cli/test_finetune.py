"""`tl-jax finetune`: which experiment the flags and files make, and what is printed at its end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tl_jax.cli.main import main
from tl_jax.experiment import Experiment

BASE = "finetune --model m --data d.csv"


def test_flags_make_an_experiment(behind: Any) -> None:
    assert main(f"{BASE} --method lora:rank=8 --lr 3e-5 --fraction 10% --warmup 6% --batch-size 16".split()) == 0
    expected = Experiment(
        model="m", data="d.csv", method="lora:rank=8", lr=3e-5, fraction=0.1, warmup=0.06, batch_size=16
    )
    assert behind.finetuned == [(expected, {})]


def test_what_is_not_given_is_left_to_the_experiment(behind: Any) -> None:
    assert main(BASE.split()) == 0
    assert behind.finetuned == [(Experiment(model="m", data="d.csv"), {})]


@pytest.mark.parametrize("switch", ["--resume", "--overwrite"])
def test_switches(behind: Any, switch: str) -> None:
    assert main([*BASE.split(), switch]) == 0
    assert behind.finetuned[0][1] == {switch[2:]: True}


def test_a_saved_experiment_and_flags_over_it(behind: Any, tmp_path: Path) -> None:
    saved = Experiment(model="m", data="d.csv", steps=7, shots=4, lr=0.1)
    file = tmp_path / "experiment.json"
    file.write_text(saved.to_json(), encoding="utf-8")
    assert main(["finetune", str(file)]) == 0
    assert main(["finetune", str(file), *"--epochs 2 --fraction 0.5 --seed 3".split()]) == 0
    over = Experiment(model="m", data="d.csv", epochs=2.0, fraction=0.5, lr=0.1, seed=3)
    assert [experiment for experiment, _ in behind.finetuned] == [saved, over]


def test_a_python_file(behind: Any, tmp_path: Path) -> None:
    file = tmp_path / "sentiment.py"
    file.write_text("import tl_jax as tl\nexperiment = tl.Experiment(model='m', data='d.csv', lr=0.5)\n")
    assert main(["finetune", str(file), "--steps", "5"]) == 0
    assert behind.finetuned[0][0] == Experiment(model="m", data="d.csv", lr=0.5, steps=5)


def test_the_end_says_the_metrics_and_three_commands(behind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE.split(), "--seed", "4"]) == 0
    out, err = capsys.readouterr()
    metrics, title, *commands = out.splitlines()
    assert metrics == "accuracy  0.7500"
    assert title == "next:"
    assert [shlex.split(command) for command in commands] == [
        ["tl-jax", "predict", "runs/a name", "a text of yours"],
        ["tl-jax", "evaluate", "runs/a name", "--data", "FILE"],
        ["tl-jax", "finetune", "runs/a name/experiment.json", "--seed", "5", "--out", "runs/a name-5"],
    ]
    flattered = "scored on the 31 validation examples, which also chose the best step: --eval-data is fairer"
    assert err == f"tl-jax: m on d.csv; loading JAX\n{flattered}\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test", "scored on the 1,600 evaluation examples"),
        ("validation", "scored on the 31 validation examples"),  # of a probe, which has no steps to choose from
        (None, "nothing was held out to score on"),
    ],
)
def test_the_end_says_what_was_scored(
    behind: Any, name: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    behind.summary = {"scored_on": name, "steps": 0}
    assert main(BASE.split()) == 0
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_a_dry_run_prints_the_plan(behind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE.split(), "--dry-run"]) == 0
    assert behind.finetuned[0][1] == {"dry_run": True}
    assert capsys.readouterr().out == "the plan\n"


def test_an_interrupted_run_says_how_it_goes_on(behind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    behind.failure = sys.modules["tl_jax.training.loop"].Interrupted("stopped after step 4 of 9, saved")
    assert main(BASE.split()) == 130
    said = capsys.readouterr().err
    assert "stopped after step 4 of 9, saved; the same command with --resume goes on" in said
    assert "Traceback" not in said
    assert main([*BASE.split(), "--overwrite"]) == 130
    assert "the same command with --resume in place of --overwrite goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("finetune", "--model and --data missing: give both, or an experiment file"),
        ("finetune --model m", "--data missing: give it, or an experiment file"),
        (f"{BASE} --epochs 1 --steps 1", "--epochs and --steps exclude each other: give one of them"),
        (f"{BASE} --resume --overwrite", "--resume and --overwrite exclude each other: give one of them"),
        (f"{BASE} --schedule cosin", "--schedule 'cosin' is not known; did you mean 'cosine'"),
        ("finetune nowhere.py", "no experiment file nowhere.py"),
    ],
)
def test_mistakes(behind: Any, capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {said}")
    assert not behind.finetuned
