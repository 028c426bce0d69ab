"""What the options of a run do: splits and shots, patience, an average, phases, no validation, the precision."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.answers import close, lines
from tests.tiny import HEAD, Tiny
from tl_jax import rules
from tl_jax.training import feature_store, interrupt
from tl_jax.training.checkpoint import Checkpoints


def test_named_splits_eval_data_and_held_out(tiny: Tiny, tmp_path: Path) -> None:
    rows = files.messages(210)
    folder = tmp_path / "splits"
    for name, part in {"train": rows[:90], "dev": rows[90:120], "test": rows[120:150]}.items():
        files.write_csv(folder / f"{name}.csv", part)
    common = {"method": "probe", "quiet": True}

    run = tl.finetune(tiny.mean, folder, out=tmp_path / "named", **common)
    assert run.manifest["data"]["examples"] == {"train": 90, "validation": 30, "test": 30}
    assert run.summary["scored_on"] == "test"
    for split, part in {"test": rows[120:150], "validation": rows[90:120], "train": rows[:90]}.items():
        assert close(run.evaluate(split=split), run.evaluate(part))
    assert close(run.evaluate(), run.metrics) and close(run.metrics, run.evaluate(rows[120:150]))
    assert close(run.evaluate(folder), run.metrics)  # of a folder the test split is scored

    run = tl.finetune(tiny.mean, folder, eval_data=tiny.test, out=tmp_path / "eval", **common)
    assert run.manifest["data"]["examples"]["test"] == 60 and close(run.metrics, run.evaluate(tiny.test))

    run = tl.finetune(tiny.mean, folder, split="test", out=tmp_path / "other", **common)
    assert run.manifest["data"]["examples"] == {"train": 30, "validation": 30}
    assert run.summary["scored_on"] == "validation" and close(run.metrics, run.evaluate(rows[90:120]))

    run = tl.finetune(tiny.mean, tiny.train, out=tmp_path / "held", **common)
    assert run.manifest["data"]["examples"] == {"train": 181, "validation": 29}
    held = [row for row in rows if int(hashlib.sha256(row[0].encode()).hexdigest(), 16) % 10 == 0]
    assert len(held) == 29 and close(run.metrics, run.evaluate(held))


@pytest.mark.parametrize("method", ["probe", "lp_ft"])
def test_a_class_without_training_examples_is_refused_before_anything_is_written(
    method: str, tiny: Tiny, tmp_path: Path
) -> None:
    """Where the head is solved: the bias of such a class would go to -∞."""
    task = tl.tasks.TextClassification(labels=["account", "billing", "delivery", "lost"])
    with pytest.raises(tl.InputError, match=f"^{method} solves .* training data have none of 'lost'$"):
        tl.finetune(tiny.mean, tiny.train, task=task, method=method, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(tl.InputError, match="training data have none of 'lost'"):
        tl.compare(tiny.mean, tiny.train, task=task, methods=method, shots=[4], out=tmp_path / "c", quiet=True)
    assert not (tmp_path / "c").exists()
    run = tl.finetune(tiny.mean, tiny.train, task=task, method=HEAD, steps=2, out=tmp_path / "run", quiet=True)
    assert run.labels == task.labels  # which steps can take


def test_no_room_for_features_is_said(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "_MEMORY", 0)
    with pytest.raises(tl.InputError, match=r"needs room for a vector of each of 181 examples: .* last_layers:k=0"):
        tl.finetune(tiny.mean, tiny.train, method="probe", no_cache=True, out=tmp_path / "run", quiet=True)


def test_shots_and_fraction(tiny: Tiny, tmp_path: Path) -> None:
    counts = {}
    for name, given in {"shots": {"shots": 4}, "fraction": {"fraction": 0.1}, "all": {}}.items():
        run = tl.finetune(tiny.mean, tiny.train, method="probe", out=tmp_path / name, quiet=True, **given)
        counts[name] = run.manifest["data"]["examples"]
        assert close(run.evaluate(), run.metrics)
    assert counts == {
        "shots": {"train": 12, "validation": 29},
        "fraction": {"train": 18, "validation": 29},
        "all": {"train": 181, "validation": 29},
    }


def test_patience_stops_early_and_keeps_the_best(tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    # A rate at which the head soon learns its examples by heart.
    settings = files.settings(HEAD, lr=0.3, epochs=40, schedule="constant", patience=3)
    run = tl.finetune(tiny.mean, tiny.train, out=tmp_path / "run", **settings)
    evaluated = lines(run, "evaluated")
    assert run.summary["stopped_early"] and run.summary["steps"] < 40 * 12
    assert run.summary["steps"] == evaluated[-1]["step"] == run.summary["best_step"] + 3 * 12
    assert [line["best"] for line in evaluated[-4:]] == [True, False, False, False]
    assert close(run.metrics, evaluated[-4]["metrics"])
    assert "no better accuracy in 3 evaluations: stopping at step" in capsys.readouterr().err
    resumed = tl.finetune(tiny.mean, tiny.train, out=tmp_path / "run", resume=True, quiet=True, **settings)
    assert resumed.summary == run.summary


def test_the_average_is_what_a_run_scores_and_keeps(tiny: Tiny, tmp_path: Path) -> None:
    """Opened again, resumed, and without its best checkpoint, a run has the averaged leaves."""
    plain = files.tune(tiny, tmp_path / "plain", HEAD, epochs=2)
    run = files.tune(tiny, tmp_path / "run", HEAD, epochs=2, ema=0.9)
    assert files.digests(plain.variables) != files.digests(run.variables)
    losses = [[line["loss"] for line in lines(one, "step")] for one in (plain, run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # the average changes nothing of training
    assert files.digests(tl.open_run(run.folder).variables) == files.digests(run.variables)
    assert close(tl.open_run(run.folder).evaluate(), run.metrics)
    last = max((run.folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    leaves = files.leaves(last)
    assert {name.partition("/")[0] for name in leaves} == {"average", "key", "opt_state", "step", "trainable"}
    shutil.rmtree(run.folder / "checkpoints" / "best")
    again = tl.open_run(run.folder, say=lambda text: None)
    kept = {f"average/{path}": leaf for path, leaf in rules.paths(again.variables).items() if path.startswith("head/")}
    assert {name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for name, leaf in kept.items()} == {
        name: digest for name, digest in leaves.items() if name.startswith("average/")
    }


@pytest.mark.parametrize("stop", [1, 11, 12, 13, 24, 25])
def test_stopped_on_and_beside_the_boundary_of_two_phases(
    stop: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And lp_ft right after its head is solved: resumed, the same bits."""
    method = "lp_ft" if stop == 1 else "gradual_unfreezing:phases=3"
    settings = {"epochs": 3, "lr": 3e-3, "ema": 0.9}
    whole = files.tune(tiny, tmp_path / "whole", method, **settings)
    asked = iter([False] * (stop - 1) + [True])
    with monkeypatch.context() as patch:
        patch.setattr(interrupt.Interrupt, "requested", property(lambda self: next(asked)))
        with pytest.raises(tl.Interrupted):
            files.tune(tiny, tmp_path / "run", method, **settings)
    files.tune(tiny, tmp_path / "run", method, resume=True, **settings)
    assert files.result(tmp_path / "run") == files.result(whole.folder)


def test_without_validation_the_last_step_is_the_best(tiny: Tiny, tmp_path: Path) -> None:
    pairs = [("my parcel is late", "delivery"), ("i was charged twice", "billing")]
    run = tl.finetune(tiny.mean, pairs, method=HEAD, steps=3, lr=1e-2, out=tmp_path / "run", quiet=True)
    assert run.summary["best_step"] == run.summary["steps"] == 3
    assert run.summary["scored_on"] is None and run.metrics == {}
    assert len(tl.open_run(run.folder).predict(["parcel"])) == 1


def test_bfloat16_computes_in_it_and_trains_in_float32(tiny: Tiny, tuned: Callable[[str], Any], tmp_path: Path) -> None:
    run, exact = files.tune(tiny, tmp_path / "run", HEAD, precision="bfloat16"), tuned(HEAD)
    best = Checkpoints(tmp_path / "run" / "checkpoints").restore_best()
    assert best is not None and {leaf.dtype for leaf in best.arrays.values()} == {np.dtype(np.float32)}
    assert run.metrics["loss"] == pytest.approx(exact.metrics["loss"], rel=0.05)
    assert run.metrics["loss"] != exact.metrics["loss"]
    assert close(tl.open_run(run.folder).evaluate(), run.metrics)
