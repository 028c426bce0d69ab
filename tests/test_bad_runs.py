"""A run folder that is taken, damaged, of another experiment, or whose model or data moved or changed: what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.shell import Shell
from tests.tiny import HEAD, Tiny
from tl_jax.pretrained import safetensors_files, weights


def test_an_output_folder_that_is_taken(shell: Shell, copied: Path) -> None:
    command = ["finetune", "run/experiment.json"]
    said = shell.refuses(*command)
    assert f"--out {copied / 'run'} holds a run already: --resume goes on with it, --overwrite replaces it" in said
    (copied / "mine").mkdir()
    (copied / "mine" / "thesis.tex").write_text("all of it")
    for switch in ([], ["--resume"], ["--overwrite"]):
        said = shell.refuses(*command, "--out", "mine", *switch)
        assert "holds something that is not a run" in said
    assert "is a file; a run needs a folder" in shell.refuses(*command, "--out", "train.csv")
    assert "exclude each other" in shell.refuses(*command, "--resume", "--overwrite")

    before = files.result(copied / "run")
    code, _, err = shell(*command, "--resume")
    assert code == 0 and f"{copied / 'run'} is finished already" in err and files.result(copied / "run") == before
    (copied / "run" / "notes.txt").write_text("mine")
    code, _, _ = shell(*command, "--overwrite", "--seed", "5")
    assert code == 0 and files.result(copied / "run") != before
    assert (copied / "run" / "notes.txt").read_text() == "mine"


def test_a_run_of_another_experiment(shell: Shell, copied: Path) -> None:
    said = shell.refuses("finetune", "--resume", "--out", "run", "--lr", "0.5", "--seed", "3")
    assert said.startswith("cannot resume run, a run of another experiment:\n")
    assert "--lr is 0.5, the run has 0.01" in said and "--seed is 3, the run has 0" in said
    files.write_csv(copied / "train.csv", files.messages(60, seed=9))
    assert "the data changed since the run began" in shell.refuses("finetune", "--resume", "--out", "run")
    said = shell.refuses("evaluate", "run")
    assert "train.csv changed since the run: give --data with what is to be scored" in said
    assert "no run folder runn; did you mean run?" in shell.refuses("finetune", "--resume", "--out", "runn")
    assert "--resume goes on with the run in --out" in shell.refuses("finetune", "--resume")


def test_another_kind_of_machine_is_told_of(shell: Shell, copied: Path) -> None:
    manifest = json.loads((copied / "run" / "manifest.json").read_text())
    assert "another kind of machine" not in shell("finetune", "--resume", "--out", "run")[2]
    manifest["machine"]["jaxlib"] = "0.1.0"
    (copied / "run" / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = shell("finetune", "--resume", "--out", "run")
    assert code == 0 and "another kind of machine (jaxlib was 0.1.0, is " in err


def test_data_that_moved_are_the_same_data(shell: Shell, copied: Path) -> None:
    (copied / "train.csv").rename(copied / "moved.csv")
    assert "no such file" in shell.refuses("finetune", "--resume", "--out", "run")
    code, _, err = shell("finetune", "--resume", "--out", "run", "--data", "moved.csv")
    assert code == 0 and "is finished already" in err


def test_a_run_that_is_not_there(shell: Shell, copied: Path) -> None:
    for command in ("predict", "evaluate"):
        assert "no run folder rum; did you mean run?" in shell.refuses(command, "rum")
        assert "model is not a run: it has no experiment.json" in shell.refuses(command, "model")


def test_files_of_a_run_that_are_damaged(shell: Shell, copied: Path) -> None:
    manifest = copied / "run" / "manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    assert "manifest.json is damaged" in shell.refuses("predict", "run", "x")
    file = copied / "run" / "experiment.json"
    values = json.loads(file.read_text())
    for change, message in (
        ({"lrr": 1}, "unknown field 'lrr'; did you mean 'lr'?"),
        ({"steps": "ten"}, "--steps must be a whole number or None, not 'ten'"),
        ({"batch_size": 2.5}, "--batch-size must be a whole number, not 2.5"),
    ):
        file.write_text(json.dumps({**values, **change}))
        assert message in shell.refuses("predict", "run", "x")
    file.write_text("{")
    assert "is not JSON" in shell.refuses("finetune", "run/experiment.json", "--out", "x")
    script = copied / "own.py"
    for code, message in (
        ("experiment = 3\n", "must set `experiment = tl_jax.Experiment(…)`"),
        ("import tl_jaxx\n", "own.py stops with ModuleNotFoundError: No module named 'tl_jaxx'"),
        ("import tl_jax\nexperiment = tl_jax.Experiment(pooling='men')\n", "did you mean 'mean'?"),
    ):
        script.write_text(code)
        assert message in shell.refuses("finetune", "own.py")


# ------------------------------------------------------------------------------------------------------ its checkpoints


def spoil(checkpoint: Path, how: str) -> None:
    """Cut the largest file of a checkpoint in half, or change one byte in its middle."""
    file = max((p for p in (checkpoint / "arrays").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = file.read_bytes()
    middle = len(data) // 2
    changed = data[:middle] if how == "truncated" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    file.write_bytes(changed)


@pytest.mark.parametrize("how", ["truncated", "altered"])
def test_a_damaged_checkpoint_gives_way_to_the_last_good_one(
    how: str, shell: Shell, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_jax.training import loop

    out = tmp_path / "run"
    settings = {"lr": 1e-2, "epochs": 2}
    expected = files.result(Path(files.tune(tiny, tmp_path / "whole", HEAD, **settings).folder))
    original = loop.Loop.__init__
    asked = iter([False] * 14 + [True])

    def stopping(self: Any, **given: Any) -> None:
        original(self, **{**given, "stop_asked": lambda: next(asked)})

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "__init__", stopping)
        patch.setattr(loop, "_SAVE_SECONDS", 0.0)
        patch.setattr(loop, "_SAVE_SHARE", 0)
        with pytest.raises(tl.Interrupted, match="stopped after step 15 of 24, saved"):
            files.tune(tiny, out, HEAD, **settings)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["14", "15", "best"]

    spoil(out / "checkpoints" / "15", how)
    code, _, err = shell("finetune", "--resume", "--out", out)
    assert code == 0
    assert f"the checkpoint {out / 'checkpoints' / '15'} cannot be used: " in err
    assert ("bytes instead of" if how == "truncated" else "has other bytes than were saved") in err
    assert "falling back to the last good checkpoint, step 14" in err and "resuming after step 14" in err
    assert files.result(out) == expected

    spoil(out / "checkpoints" / "best", how)
    last = tl.finetune(tiny.mean, tiny.train, resume=True, dry_run=True, quiet=True)  # a dry run reads no run
    assert "parameters train" in last
    code, text, err = shell("predict", out, "where is my parcel")
    assert code == 0 and json.loads(text)["label"] in files.TOPICS
    assert f"the checkpoint {out / 'checkpoints' / 'best'} cannot be used: " in err
    assert f"this is the model after the last step, 24; tl-jax finetune --resume --out {out} makes it again" in err
    code, _, err = shell("finetune", "--resume", "--out", out)
    assert code == 0 and "without the best checkpoint training starts from the beginning" in err
    assert files.result(out) == expected
    for path in (out / "checkpoints").iterdir():
        spoil(path, how)
    said = shell.refuses("predict", out, "where is my parcel")
    assert f"the run {out} has no good checkpoint left; tl-jax finetune --resume --out {out} makes it again" in said
    code, _, _ = shell("finetune", "--resume", "--out", out)
    assert code == 0 and files.result(out) == expected


# --------------------------------------------------------------------------------------------------- its frozen weights


def test_weights_that_moved(shell: Shell, copied: Path) -> None:
    before = shell("predict", "run", "where is my parcel")
    assert before[0] == 0
    (copied / "model").rename(copied / "elsewhere")
    for command in (["predict", "run", "x"], ["evaluate", "run"], ["finetune", "--resume", "--out", "run"]):
        said = shell.refuses(*command)
        assert f"the run run was made from {copied / 'model'}; if that moved, give --model" in said
    assert shell("predict", "run", "where is my parcel", "--model", "elsewhere")[:2] == before[:2]
    assert shell("evaluate", "run", "--model", "elsewhere")[0] == 0
    code, _, err = shell("finetune", "--resume", "--out", "run", "--model", "elsewhere")
    assert code == 0 and "is finished already" in err


def test_weights_that_changed(shell: Shell, copied: Path) -> None:
    tensors = dict(weights.read(copied / "model"))
    name = next(iter(tensors))
    tensors[name] = tensors[name] + np.float32(1e-3)
    safetensors_files.write(copied / "model" / "model.safetensors", tensors)
    for command in (
        ["predict", "run", "x"],
        ["evaluate", "run"],
        ["evaluate", "run", "--model", "model"],
        ["finetune", "--resume", "--out", "run"],
    ):
        said = shell.refuses(*command)
        assert f"the weights in {copied / 'model'} are not those recorded for this run:" in said
        assert "model.safetensors has changed" in said


def test_weights_in_memory_that_changed(tiny: Tiny, tmp_path: Path) -> None:
    model, variables = tl.load(tiny.mean)
    settings = {**files.settings(HEAD, epochs=1), "out": tmp_path / "run", "quiet": True}
    tl.finetune((model, variables), tiny.train, **settings)
    tl.finetune((model, variables), tiny.train, resume=True, **settings)
    table = variables["params"]["embeddings"]["token"]["embedding"]
    table[3, 5] += 1
    with pytest.raises(tl.InputError, match="the model changed since the run began"):
        tl.finetune((model, variables), tiny.train, resume=True, **settings)
    with pytest.raises(tl.InputError, match="the model must be a folder, a name on the hub"):
        tl.finetune(model, tiny.train, **settings)
