"""What people get wrong, through the command line: the message, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.tiny import HEAD, Tiny
from tl_jax.cli.main import main
from tl_jax.pretrained import safetensors_files, weights

ONE_EPOCH = ["--method", HEAD, "--lr", "1e-2", "--epochs", "1", "--batch-size", "16"]


class Shell:
    """`tl-jax` in this process, with what it said."""

    def __init__(self, tiny: Tiny, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.tiny, self.folder, self._capsys = tiny, folder, capsys

    def __call__(self, *args: Any) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._capsys.readouterr()
        code = main([str(arg) for arg in args])
        return code, *self._capsys.readouterr()

    def refuses(self, *args: Any) -> str:
        """The message, of a command that must fail by the user's fault and leave every file as it is."""
        before = snapshot(self.folder)
        code, out, err = self(*args)
        assert (code, out) == (2, ""), (code, out, err)
        assert snapshot(self.folder) == before
        said = err.partition("error: ")[2]
        assert said and "Traceback" not in err and len(said) < 1200
        return said

    def finetune(self, *args: Any, data: Any = None, model: Any = None, out: str = "run") -> list[Any]:
        """The words of a fine-tune of the tiny model; `args` come last."""
        words = ["finetune", "--model", model or self.tiny.mean, "--data", data or self.tiny.train]
        return [*words, *ONE_EPOCH, "--out", self.folder / out, *args]


def snapshot(folder: Path) -> dict[str, Any]:
    """Every file with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def shell(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tiny, tmp_path, capsys)


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, whose model and data are copies that may be spoilt: see `copied`."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(tiny.mean, folder / "model")
    shutil.copy(tiny.train, folder / "train.csv")
    tl.finetune(
        folder / "model",
        folder / "train.csv",
        out=folder / "run",
        quiet=True,
        **files.settings(HEAD, lr=1e-2, epochs=1),
    )
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, at its old place relative to the directory the commands run in."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for name in ("experiment.json", "manifest.json"):
        file = tmp_path / "run" / name
        file.write_text(file.read_text().replace(str(finished), str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------------------------- the data

CSV = "text,label\nwhere is my parcel,delivery\ni was charged twice,billing\nlate again,delivery\nrefund it,billing\n"
BAD_DATA = {
    "empty": (("bad.csv", ""), r"bad\.csv is empty"),
    "only a header": (("bad.csv", "text,label\n"), r"bad\.csv has a header \(text, label\) and no rows"),
    "a field too many": (("bad.csv", CSV + "one, two,three\n"), r"bad\.csv, line 6: 3 fields, but the header has 2"),
    "an open quote": (("bad.csv", CSV + '"never closed,x\n'), r"bad\.csv, line 6: a quote opened"),
    "broken JSON": (
        ("bad.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": }\n'),
        r"bad\.jsonl, line 2: not valid JSON",
    ),
    "a key missing": (("bad.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n'), r"bad\.jsonl, line 2: .*label"),
    "no label": (("bad.csv", CSV + "nothing more,\n"), r"bad\.csv, line 6: the label \(column 'label'\) is empty"),
    "one class": (
        ("bad.csv", "text,label\na b,x\nc d,x\ne f,x\n"),
        r"bad\.csv: all 3 labels are 'x'; a classifier needs at least two classes",
    ),
    "not UTF-8": (("bad.csv", b"text,label\nk\xf6nnte,x\n"), r"bad\.csv, line 2: the byte 0xf6 is not UTF-8"),
    "no header": (
        ("bad.csv", "where is my parcel,delivery\ni was charged twice today,billing\nit is late again,delivery\n" * 2),
        r"the first line looks like data, not a header",
    ),
    "a number for a text": (
        ("bad.jsonl", '{"text": "a", "label": "x"}\n{"text": 7, "label": "y"}\n'),
        r"bad\.jsonl, line 2: the text \(column 'text'\) is a number, not a string",
    ),
    "another format": (("bad.xlsx", "x"), r"bad\.xlsx: cannot read '\.xlsx'; use \.csv, \.tsv, \.jsonl or \.txt"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_data_that_cannot_be_read(case: str, shell: Shell) -> None:
    (name, content), message = BAD_DATA[case]
    (shell.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert re.search(message, shell.refuses(*shell.finetune(data=shell.folder / name)))


def test_a_file_that_is_not_there_names_the_nearest(shell: Shell) -> None:
    files.write_csv(shell.folder / "tickets.csv", files.messages(6))
    said = shell.refuses(*shell.finetune(data=shell.folder / "tikets.csv"))
    assert f"no such file or folder: {shell.folder / 'tikets.csv'}; did you mean 'tickets.csv'?" in said
    said = shell.refuses(*shell.finetune("--eval-data", shell.folder / "ticket.csv"))
    assert "did you mean 'tickets.csv'?" in said


def test_a_column_that_is_not_there_names_the_nearest(shell: Shell) -> None:
    said = shell.refuses(*shell.finetune("--text-column", "texts"))
    assert "messages.csv has no column 'texts'; did you mean 'text'?" in said
    said = shell.refuses(*shell.finetune("--label-column", "labl"))
    assert "messages.csv has no column 'labl'; did you mean 'label'?" in said


def test_labels_that_training_never_saw(shell: Shell, copied: Path) -> None:
    new = files.write_csv(copied / "new.csv", [*files.messages(6, seed=3), ("lost and found", "deliverry")])
    said = shell.refuses(*shell.finetune("--eval-data", new, out="other"))
    assert "new.csv has labels that training never saw: 'deliverry' (1); is 'delivery' meant?" in said
    assert "The classes: account, billing, delivery" in said
    said = shell.refuses("evaluate", "run", "--data", new)
    assert "'deliverry' (1); is 'delivery' meant?" in said


def test_splits_that_are_not_there(shell: Shell) -> None:
    for name in ("train", "test"):
        files.write_csv(shell.folder / "splits" / f"{name}.csv", files.messages(12))
    said = shell.refuses(*shell.finetune("--split", "validation", data=shell.folder / "splits"))
    assert "has no split 'validation'; it has train, test" in said


def test_texts_that_are_too_long_are_cut_counted_and_told(shell: Shell, copied: Path) -> None:
    rows = [(f"{text} {'parcel ' * 60 if i < 5 else ''}", label) for i, (text, label) in enumerate(files.messages(30))]
    long = files.write_csv(copied / "long.csv", rows)
    code, _, err = shell(*shell.finetune(data=long, out="long"))
    assert code == 0
    told = re.findall(r"(\d+) of \d+ (training|validation) texts longer than 40 tokens: the end is cut off", err)
    assert sum(int(count) for count, _ in told) == 5
    code, _, err = shell("evaluate", "long", "--data", long)
    assert code == 0 and "5 of 30 texts longer than 40 tokens: the end is cut off" in err
    code, out, err = shell("predict", "long", "parcel " * 60)
    assert code == 0 and "1 of 1 texts longer than 40 tokens" in err
    assert json.loads(out)["text"] == "parcel " * 60  # said whole, though not read whole
    code, _, err = shell(*shell.finetune("--max-length", "12", out="short"))
    assert code == 0 and "texts longer than 12 tokens" in err
    assert "max_length 41 is more than the 40 positions" in shell.refuses(
        *shell.finetune("--max-length", "41", out="x")
    )


# ------------------------------------------------------------------------------------------------------------ the model


def test_a_model_that_is_not_there_names_the_nearest(shell: Shell, copied: Path) -> None:
    said = shell.refuses(*shell.finetune(model=copied / "modle", out="x"))
    assert f"there is no folder {copied / 'modle'}; did you mean 'model'?" in said
    (copied / "empty").mkdir()
    assert "holds no config.json" in shell.refuses(*shell.finetune(model=copied / "empty", out="x"))
    said = shell.refuses(*shell.finetune(model=shell.tiny.train, out="x"))
    assert "is a file: give the folder it lies in" in said


def test_weights_that_do_not_fit_are_listed_together(shell: Shell, copied: Path) -> None:
    path = copied / "model" / "model.safetensors"
    tensors = dict(weights.read(copied / "model"))
    query = next(name for name in tensors if name.endswith("layer.0.attention.self.query.weight"))
    value = query.replace("query", "value")
    tensors[value] = tensors[value][:-1]
    tensors["encoder.layer.9.surprise"] = np.zeros(3, np.float32)
    del tensors[query]
    safetensors_files.write(path, tensors)
    said = shell.refuses(*shell.finetune(model=copied / "model", out="x"))
    for name in (query, value, "encoder.layer.9.surprise"):
        assert name in said
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is truncated or damaged" in shell.refuses(*shell.finetune(model=copied / "model", out="x"))


# ---------------------------------------------------------------------------------------------- the method, the numbers


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method lora:targets=qery", r"lora: the target 'qery' matches no dense module; did you mean '.*query'"),
        ("--method lora:rnk=4", r"did you mean 'rank'"),
        ("--method lorra", r"did you mean 'lora'"),
        ("--method last_layers:k=3", r"last_layers:k=3: the model has 2 layers, layers_0 to layers_1"),
        ("--method lora:targets=head", r"lora: the target 'head' matches no dense module"),
        ("--warmup 1000", r"warm-up must be a whole number of the 12 steps or a fraction below 1, not 1000"),
        ("--lr 0", r"the learning rate must be a positive number"),
        (
            "--batch-size 10 --accumulate 4",
            r"cannot be cut into 4 equal micro-batches; the nearest batch size is 8 or 12",
        ),
        ("--pooling men", r"--pooling 'men' is not known; did you mean 'mean'"),
        ("--mesh data=2", r"--mesh data=2 needs 2 devices, and 1 device is there: .*; the nearest that fits is data=1"),
        ("--mesh data=1,tenser=1", r"--mesh 'data=1,tenser=1' has the unknown axis 'tenser'; did you mean 'tensor'"),
        ("--max-length 2", r"max_length 2 leaves no room for text"),
    ],
)
def test_settings_that_cannot_be(flags: str, message: str, shell: Shell) -> None:
    assert re.search(message, shell.refuses(*shell.finetune(*flags.split())))


def test_a_rule_that_decides_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """Rules are written in Python: absent and shadowed are told apart, foreign names understood."""
    model, variables = tl.load(tiny.mean)
    task = tl.tasks.TextClassification(labels=["x", "y"])
    plan = tl.methods.full()(task.attach(model), variables, __import__("jax").random.key(0))

    def planned(*rules: Any) -> Any:
        return type(plan)(plan.model, plan.variables, rules, plan.method)

    rest = (".*", tl.FROZEN)
    with pytest.raises(tl.InputError, match=r"layers_2/\.\*.*(nearest|did you mean).*layers_[01]"):
        planned(("layers_2/.*", tl.Group("top")), rest)
    with pytest.raises(tl.InputError, match=r"head/bias.*head/\.\*"):
        planned(("head/.*", tl.Group("head")), ("head/bias", tl.Group("bias")), rest)
    with pytest.raises(tl.InputError, match=r"encoder\.layer\.1.* is .*layers_1"):
        planned(("encoder.layer.1/.*", tl.Group("top")), rest)
    with pytest.raises(tl.InputError, match="nothing trains"):
        planned(rest)
    with pytest.raises(tl.InputError, match=r"head/kernel"):
        planned(("layers_.*|embeddings/.*", tl.Group("body")))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_learning_rate_that_diverges(optimizer: str, shell: Shell) -> None:
    flags = ["--lr", "1e30", "--optimizer", optimizer, "--clip", "0", "--epochs", "3"]
    code, out, err = shell(*shell.finetune(*flags))
    assert (code, out) == (2, "") and "Traceback" not in err
    said = err.partition("error: ")[2]
    assert re.search(r"training diverged at step \d+: loss \S+, gradient norm \S+ \(in the batch of ", said)
    assert f"{shell.tiny.train}, line " in said and " and 15 more; at learning rate " in said
    assert re.search(
        r"(no checkpoint had been written yet|the last good checkpoint is step \d)\. Try a lower --lr", said
    )
    run = shell.folder / "run"
    assert not (run / "summary.json").exists()
    said = shell.refuses("predict", run, "where is it")
    assert "has not finished" in said


def test_weights_that_are_no_numbers_are_not_blamed_on_the_rate(shell: Shell, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(shell.tiny.mean, model)
    tensors = dict(weights.read(model))
    tensors["encoder.layer.0.attention.self.value.weight"][0, 0] = np.nan
    safetensors_files.write(model / safetensors_files.SINGLE, tensors)
    code, _, err = shell(*shell.finetune("--method", "full", model=model))
    assert code == 2 and "training diverged at step 1: loss nan" in err
    assert "it is not the learning rate: tl-jax inspect MODEL" in err


def test_the_last_good_checkpoint_is_kept_when_training_diverges(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that explodes in the middle; whoever resumes stands before it again."""
    from tl_jax.training import loop
    from tl_jax.training.checkpoint import Checkpoints

    monkeypatch.setattr(loop, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_SAVE_SHARE", 0)
    original = loop.Loop.__init__

    def exploding(self: Any, **given: Any) -> None:
        rate = given["rate"]
        original(self, **{**given, "rate": lambda i: 1e38 if i == 17 else rate(i)})

    monkeypatch.setattr(loop.Loop, "__init__", exploding)
    settings = {"lr": 1e-2, "clip": 0.0, "optimizer": "sgd"}
    for resume in (False, True):
        with pytest.raises(
            tl.Diverged, match=r"diverged at step 19: .* the last good checkpoint is step (\d+)"
        ) as stop:
            files.tune(tiny, tmp_path / "run", HEAD, resume=resume, **settings)
        step = int(re.findall(r"checkpoint is step (\d+)", str(stop.value))[0])
        assert 12 <= step <= 18  # step 18 itself is finite: its update is what explodes
        restored = Checkpoints(tmp_path / "run" / "checkpoints").restore()
        assert restored is not None and restored.step == step
        assert all(np.isfinite(leaf).all() for leaf in restored.arrays.values())


# -------------------------------------------------------------------------------------------------------------- the run


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


# ---------------------------------------------------------------------------------------------------------- the machine

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
