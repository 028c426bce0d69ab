"""Fine-tuning end to end on a tiny BERT: every method, every way in, and what a run answers afterwards."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support

import tl_jax as tl
from tests import tiny as files
from tests.answers import TEXTS, close, lines, probabilities
from tests.conftest import SEED, some
from tests.tiny import HEAD, METHODS, Tiny
from tl_jax.cli.main import main

DRAWN = sorted(METHODS)[SEED % len(METHODS)]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file of a folder with its bytes, every folder with None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


# --------------------------------------------------------------------------------------------------------- every method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_is_the_same_when_opened_again(method: str, tuned: Callable[[str], Any]) -> None:
    run = tuned(method)
    assert run.summary["validation"]["loss"] < math.log(3) < 1.1  # better than the shares of the labels
    assert run.metrics["accuracy"] > 0.6
    steps = lines(run, "step")
    if method == "probe":
        assert not steps and run.summary["steps"] == 0
    else:
        losses = [line["loss"] for line in steps]
        assert len(losses) == run.summary["steps"] == 60  # every max(1, steps/50) steps
        gain = {"lp_ft": 0.0, "bitfit": 0.2}.get(method, 0.3)  # of one the head is solved before, of one little trains
        assert np.mean(losses[-5:]) < np.mean(losses[:5]) - gain

    again = tl.open_run(run.folder)
    answers = run.predict(TEXTS)
    assert close(again.predict(TEXTS), answers)
    assert [answer["text"] for answer in answers] == TEXTS
    for answer in answers:
        shares = answer["probabilities"]
        assert list(shares) == ["account", "billing", "delivery"] and sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert answer["label"] == max(shares, key=shares.__getitem__)
    assert close(again.evaluate(), run.metrics)
    model, variables = tl.load(run.folder)
    shares = [list(answer["probabilities"].values()) for answer in answers]
    np.testing.assert_allclose(probabilities(model, variables, TEXTS), shares, rtol=1e-5)
    assert files.digests(again.variables) == files.digests(run.variables) == files.digests(variables)


@pytest.mark.parametrize("kind", sorted(set(files.FAMILIES) - {"bert"}))
def test_other_families_learn_and_leave_as_classes_of_transformers(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    import transformers

    folder = files.write_bert(tmp_path / "model", kind=kind, pooling="pooler")
    given = {"data": tiny.train, "eval_data": tiny.test, **files.settings("full", lr=5e-3, epochs=8)}
    run = tl.finetune(folder, out=tmp_path / "run", quiet=True, **given)
    assert run.metrics["accuracy"] > 0.6
    answers = run.predict(TEXTS)
    pipe = transformers.pipeline("text-classification", model=str(run.export(tmp_path / "out")), top_k=None)
    assert type(pipe.model).__name__.endswith("ForSequenceClassification")
    for answer, said in zip(answers, pipe(TEXTS), strict=True):
        shares = {one["label"]: one["score"] for one in said}
        assert close(dict(sorted(answer["probabilities"].items())), dict(sorted(shares.items())), 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_figures_are_those_of_scikit_learn(method: str, tuned: Callable[[str], Any]) -> None:
    run = tuned(method)
    rows = files.messages(60, seed=1)
    answers = run.predict([text for text, _ in rows], batch_size=7)
    truth, found = [label for _, label in rows], [answer["label"] for answer in answers]
    shares = np.array([list(answer["probabilities"].values()) for answer in answers])
    metrics = run.metrics
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, found), abs=1e-9)
    assert metrics["macro_f1"] == pytest.approx(f1_score(truth, found, average="macro"), abs=1e-9)
    assert metrics["loss"] == pytest.approx(log_loss(truth, shares / shares.sum(1, keepdims=True)), rel=1e-5)
    each = precision_recall_fscore_support(truth, found, labels=run.labels, zero_division=0)
    for name, column in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert [row[name] for row in metrics["per_class"].values()] == pytest.approx(list(column), abs=1e-9)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "probe"])
def test_the_best_checkpoint_is_the_best(method: str, tuned: Callable[[str], Any]) -> None:
    run = tuned(method)
    evaluated = lines(run, "evaluated")
    before = [0] if method == "lp_ft" else []  # the probe it starts from counts too
    assert [line["step"] for line in evaluated] == [*before, 12, 24, 36, 48, 60]
    best = max(evaluated, key=lambda line: (line["metrics"]["accuracy"], line["step"]))  # of equal ones the later
    assert run.summary["best_step"] == best["step"]
    assert close(run.evaluate(split="validation"), best["metrics"])
    seen = [line["metrics"]["accuracy"] for line in evaluated]
    assert [line["best"] for line in evaluated] == [score >= max(seen[:i], default=0) for i, score in enumerate(seen)]


@pytest.mark.parametrize("method", some(METHODS, DRAWN))
def test_the_command_line_makes_the_same_run(
    method: str, tiny: Tiny, tuned: Callable[[str], Any], tmp_path: Path
) -> None:
    run, out = tuned(method), tmp_path / "run"
    given = ["--model", tiny.mean, "--data", tiny.train, "--eval-data", tiny.test, *files.flags(method), "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "tl_jax", "finetune", *map(str, given)],
        env=files.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert f"accuracy  {run.metrics['accuracy']:.4f}" in printed
    assert f"tl-jax predict {out} " in printed
    assert files.result(out) == files.result(run.folder)
    assert first == f"tl-jax: {tiny.mean} on {tiny.train}; loading JAX\n"
    lines = said.splitlines()
    assert lines[0] == "text column 'text', label column 'label' (by name)"
    assert any(line.startswith(f"{run.experiment.method}: ") and "parameters train" in line for line in lines)
    known = ("text column", "181 to train", "bert of", run.experiment.method, "training ", "compiling ", "step ")
    known += ("group ", "head ", "full ", "frozen ", "phase", "biases ", "top ", "embeddings ", "layers_", "lora ")
    known += ("60 steps", "features of", "scored on the 60 evaluation examples")
    known += ("note: probe is solved and takes no steps: epochs change nothing",)
    assert [line for line in lines if not line.startswith(known)] == []  # and nothing that the platform says

    done = files.cli("predict", out, *TEXTS)
    assert done.returncode == 0, done.stderr
    assert close([json.loads(line) for line in done.stdout.splitlines()], run.predict(TEXTS))
    assert done.stderr == f"tl-jax: opening {out}; loading JAX\n"


def test_evaluate_prints_the_metrics(tuned: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    run = tuned("full")
    assert main(["evaluate", str(run.folder), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert close(json.loads(out), run.metrics)
    scored = f"60 examples of {run.experiment.eval_data}, text 'text', label 'label'"
    assert err == f"tl-jax: evaluating {run.folder}; loading JAX\n{scored}\n"
    assert main(["evaluate", str(run.folder), "--split", "validation"]) == 0
    assert f"accuracy  {run.summary['validation']['accuracy']:.4f}\n" in capsys.readouterr().out


def test_evaluate_takes_the_columns_of_the_run_and_no_others(
    tuned: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A guess that is wrong would be scored in silence; the file is named, and so are its columns."""
    folder = str(tuned(HEAD).folder)
    rows = files.messages(60, seed=1)
    other = str(files.write_csv(tmp_path / "other.csv", rows, header=("body", "topic")))
    assert main(["evaluate", folder, "--data", other]) == 2
    assert "other.csv has no column 'text'; choose from body, topic" in capsys.readouterr().err
    assert main(["evaluate", folder, "--data", other, "--text-column", "body", "--label-column", "topic"]) == 0
    printed, said = capsys.readouterr()
    assert f"accuracy  {tuned(HEAD).metrics['accuracy']:.4f}" in printed
    assert f"60 examples of {other}, text 'body', label 'topic'" in said


def test_predict_reads_files_and_standard_input(
    tuned: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tuned("probe")
    expected = run.predict(TEXTS[:2])

    def answers(*args: Any) -> list[dict[str, Any]]:
        assert main(["predict", str(run.folder), *map(str, args)]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    table = files.write_csv(tmp_path / "new.csv", [("x", TEXTS[0]), ("y", TEXTS[1])], header=("id", "text"))
    plain = tmp_path / "new.txt"
    plain.write_text("\n".join(TEXTS[:2]) + "\n", encoding="utf-8")
    assert close(answers(table), expected)
    assert close(answers(table, "--text-column", "text"), expected)
    assert close(answers(plain), expected)
    with open(plain, encoding="utf-8") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert close(answers("-"), expected)


# ---------------------------------------------------------------------------------------------------- objects for names


def test_objects_in_place_of_names(tiny: Tiny, tmp_path: Path, tuned: Callable[[str], Any]) -> None:
    run = tuned("lora:rank=4")
    pairs, new = files.messages(210), files.messages(60, seed=1)
    model, variables = tl.load(tiny.mean)
    task = tl.tasks.TextClassification(labels=["account", "billing", "delivery"])
    key = jax.random.fold_in(jax.random.key(0), 0)
    plan = tl.methods.lora(rank=4)(task.attach(model), variables, key)
    same = files.settings("lora:rank=4")
    method = same.pop("method")
    records = [{"text": text, "label": label} for text, label in new]
    dataset = tl.data.open(str(tiny.train), split="train")
    ways = {
        "plan": ((plan, dataset), {"task": task}),
        "pair": (((model, variables), pairs), {"method": tl.methods.lora(rank=4)}),
        "experiment": ((tl.Experiment(model=str(tiny.mean), data=str(tiny.train), method=method),), {}),
    }
    for name, (given, options) in ways.items():
        made = tl.finetune(*given, eval_data=records, out=tmp_path / name, quiet=True, **same, **options)
        assert close(made.metrics, run.metrics), name
        assert close(made.predict(TEXTS), run.predict(TEXTS)), name
        assert made.experiment.method == run.experiment.method

    again = tl.open_run(tmp_path / "plan")  # from its own checkpoint and the folder its architecture came from
    assert close(again.predict(TEXTS), run.predict(TEXTS))
    with pytest.raises(tl.InputError, match="give evaluate the data to score"):
        again.evaluate()
    assert close(again.evaluate(records), run.metrics)
    with pytest.raises(tl.InputError, match="the model of this experiment was an object in memory"):
        tl.finetune(tl.Experiment.load(tmp_path / "plan"), resume=True, quiet=True)


def smoothed(logits: Any, targets: Any) -> Any:
    soft = optax.smooth_labels(jax.nn.one_hot(targets, logits.shape[-1]), 0.2)
    return optax.softmax_cross_entropy(logits, soft)


def top_two(outputs: Any, batch: Any) -> tuple[Any, Any]:
    ranks = np.argsort(-outputs["logits"], axis=-1)[:, :2]
    return (ranks == batch["targets"][:, None]).any(1), np.ones(len(ranks))


def test_a_loss_and_metrics_of_the_users_own(tiny: Tiny, tuned: Callable[[str], Any], tmp_path: Path) -> None:
    task = tl.tasks.TextClassification(loss=smoothed, metrics={"top_two": top_two})
    run = files.tune(tiny, tmp_path / "own", HEAD, task=task)
    plain = tuned(HEAD)
    assert 1 > run.metrics["top_two"] > run.metrics["accuracy"] > 0.5
    rows = files.messages(60, seed=1)
    answers = run.predict([text for text, _ in rows])
    shares = np.array([list(answer["probabilities"].values()) for answer in answers])
    truth = np.array([run.labels.index(label) for _, label in rows])
    soft = 0.8 * np.eye(3)[truth] + 0.2 / 3
    assert run.metrics["loss"] == pytest.approx(-(soft * np.log(shares)).sum(1).mean(), rel=1e-5)
    assert run.metrics["top_two"] == np.mean((np.argsort(-shares)[:, :2] == truth[:, None]).any(1))
    assert not close(run.predict(TEXTS), plain.predict(TEXTS), 1e-3)  # it was trained by that loss

    said: list[str] = []
    reopened = tl.open_run(run.folder, say=said.append)
    assert said == ["the run was trained with a loss of its own, smoothed; here the loss is the task's"]
    assert reopened.evaluate()["accuracy"] == run.metrics["accuracy"]
    assert close(tl.open_run(run.folder, task=task).evaluate(), run.metrics)
    with pytest.raises(tl.InputError, match="the loss changed since the run began"):
        files.tune(tiny, tmp_path / "own", HEAD, resume=True)
    with pytest.raises(tl.InputError, match="probe solves logistic regression and cannot use your own loss"):
        files.tune(tiny, tmp_path / "probe", "probe", task=task)
    assert not (tmp_path / "probe").exists()


# --------------------------------------------------------------------------------------------- where an experiment lies


def test_from_flags_a_python_file_and_a_saved_experiment(tiny: Tiny, tmp_path: Path) -> None:
    settings = {"method": HEAD, "lr": 3e-2, "steps": 6, "batch_size": 16, "shots": 10}
    values = {"model": str(tiny.mean), "data": str(tiny.train), "epochs": None, **settings}
    script = tmp_path / "small.py"
    script.write_text(f"import tl_jax as tl\nexperiment = tl.Experiment(**{values!r})\n", encoding="utf-8")
    outs = [tmp_path / name for name in ("flags", "script", "saved", "again")]
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["finetune", "--model", str(tiny.mean), "--data", str(tiny.train), *flags, "--out", str(outs[0])]) == 0
    assert main(["finetune", str(script), "--out", str(outs[1])]) == 0
    assert main(["finetune", str(outs[0] / "experiment.json"), "--out", str(outs[2])]) == 0
    results = [files.result(out) for out in outs[:3]]
    assert results[0] == results[1] == results[2]
    assert main(["finetune", str(outs[0]), "--out", str(outs[3]), "--seed", "1"]) == 0
    assert files.result(outs[3]) != results[0]
    assert tl.Experiment.load(outs[3]) == tl.Experiment(**{**values, "seed": 1, "out": str(outs[3])})


def test_the_default_folder_is_named_by_data_and_method(tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run = tl.finetune(tiny.mean, tiny.train, method="probe", quiet=True)
    assert run.folder == Path("runs/messages-probe") and run.folder.is_dir()
    # Relative places are those of the directory the run was started in; its weights are found from any.
    monkeypatch.chdir(tmp_path / "runs")
    assert close(tl.open_run("messages-probe").predict(TEXTS), run.predict(TEXTS))


def test_a_dry_run_writes_nothing(tiny: Tiny, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    before = tree(tiny.folder)
    for method in METHODS:
        assert (
            main(["finetune", "--model", str(tiny.mean), "--data", str(tiny.train), "--method", method, "--dry-run"])
            == 0
        )
        out, err = capsys.readouterr()
        assert out.startswith(tl.methods.parse(method).name) and "parameters train" in out.splitlines()[0]
        assert ("GFLOPs each" in out) == (method != "probe")
        assert "parameters train" not in err  # once is enough
    assert tree(tmp_path) == {} and tree(tiny.folder) == before


def test_settings_that_change_nothing_are_told_of(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"dry_run": True, "lr": 1e-3, "epochs": 2.0, "batch_size": 8}
    tl.finetune(tiny.mean, tiny.train, method="probe", **given)
    assert "note: probe is solved and takes no steps: epochs, lr change nothing\n" in capsys.readouterr().err
    tl.finetune(tiny.mean, tiny.train, method="lp_ft", **given)
    tl.finetune(tiny.mean, tiny.train, method="probe", dry_run=True)
    assert "note:" not in capsys.readouterr().err


def test_the_plan_says_what_will_train(tiny: Tiny) -> None:
    table = tl.finetune(tiny.mean, tiny.train, dry_run=True, quiet=True, **files.settings("lora:rank=4"))
    head, header, *groups, cost = table.splitlines()
    sites = 2 * 2  # query and value of two layers
    trained = sites * 2 * 32 * 4 + 32 * 3 + 3
    assert f": {trained:,} of " in head and head.endswith("from layers_0 up")
    assert header.split() == ["group", "tensors", "parameters", "learning", "rate", "weight", "decay", "optimiser"]
    rows = {row.split()[0]: row.split() for row in groups}
    assert rows["lora"][1:4] == ["8", "1,024", "0.01"] and rows["head"][1:3] == ["2", "99"]
    assert rows["lora"][-2:] == ["8.2", "kB"]  # two moments of float32
    assert cost.startswith("60 steps (5 epochs of 181 examples) of 16 in 7 × 32 tokens, ")


def test_while_a_damaged_best_is_made_again_the_run_is_not_finished(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped there, the figures of before must not stand beside a best checkpoint that is half way."""
    out = tmp_path / "run"
    files.tune(tiny, out, HEAD, epochs=1)
    (out / "checkpoints" / "best" / "commit.json").unlink()

    def stopped(*_: Any, **__: Any) -> None:
        raise tl.Interrupted("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("tl_jax.finetuning.fit", stopped)
        with pytest.raises(tl.Interrupted):
            files.tune(tiny, out, HEAD, epochs=1, resume=True)
    assert not (out / "summary.json").exists()
    with pytest.raises(tl.InputError, match="has not finished"):
        tl.open_run(out)
    assert files.tune(tiny, out, HEAD, epochs=1, resume=True).metrics["accuracy"] > 0


def test_quiet_prints_nothing(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = files.tune(tiny, tmp_path / "run", HEAD, epochs=1)
    run.predict(["parcel " * 200])
    files.tune(tiny, tmp_path / "run", HEAD, epochs=1, resume=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "best")
    files.tune(tiny, tmp_path / "run", HEAD, epochs=1, resume=True)
    assert capfd.readouterr() == ("", "")


def test_a_run_in_a_thread_needs_no_signals(tiny: Tiny, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(files.tune, tiny, tmp_path / "run", HEAD, epochs=1).result()
    assert run.summary["steps"] == 12
