"""What people get wrong, through the command line: the message, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.shell import Shell
from tests.tiny import HEAD, Tiny
from tl_jax.pretrained import safetensors_files, weights

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
