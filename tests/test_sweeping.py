"""`probe:at=…`: a chain that ends at a cut, named or chosen, from fine-tune to prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tl_jax as tl
from tests import tiny as files
from tests.tiny import Tiny
from tl_jax.errors import InputError
from tl_jax.training import prefixes

AUTO = "probe:at=auto"


def method_of(run: Any) -> str:
    return str(json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))["method"])


def test_a_probe_at_a_cut_is_the_chain_up_to_there(tiny: Tiny, tmp_path: Path) -> None:
    run = files.tune(tiny, tmp_path / "run", "probe:at=layers_1")
    assert run.model.names == ("embeddings", "layers_0", "pooler", "head")
    assert set(run.variables["params"]) == {"embeddings", "layers_0", "head"}
    whole, variables = tl.load(tiny.mean)
    texts = [text for text, _ in files.messages(6)]
    inputs = whole.processor(texts)
    hidden = whole.apply(variables, inputs, stop="layers_1")
    pooled = np.asarray(whole.apply(variables, hidden, start="pooler")["pooled"])
    head = run.variables["params"]["head"]
    logits = pooled @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = [list(answer["probabilities"].values()) for answer in tl.open_run(run.folder).predict(texts)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(InputError, match="the chain is truncated: it lacks layers_1"):
        run.export(tmp_path / "out")


def test_the_cut_before_the_pooler_is_the_probe(tiny: Tiny, tmp_path: Path) -> None:
    last, plain = files.tune(tiny, tmp_path / "a", "probe:at=pooler"), files.tune(tiny, tmp_path / "b", "probe")
    assert last.summary["metrics"] == plain.summary["metrics"]
    assert files.digests(last.variables["params"]["head"]) == files.digests(plain.variables["params"]["head"])


def test_standardised_features_are_solved_as_scikit_learn_does(tiny: Tiny, tmp_path: Path) -> None:
    """And the head is put in terms of the features as they are."""
    texts, labels = zip(*files.messages(120), strict=True)
    given = {"method": "probe:C=0.05,standardize=true", "quiet": True}
    rows = list(zip(texts, labels, strict=True))
    run = tl.finetune(tiny.mean, {"train": rows, "validation": rows[:12]}, out=tmp_path / "run", **given)
    whole, variables = tl.load(tiny.mean)
    pooled = np.asarray(whole.apply(variables, whole.processor(list(texts)))["pooled"], np.float64)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, tol=1e-10, max_iter=10_000)).fit(
        pooled, labels
    )
    found = [list(answer["probabilities"].values()) for answer in run.predict(list(texts))]
    np.testing.assert_allclose(found, reference.predict_proba(pooled), atol=1e-4)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("layers_7", "has no stage 'layers_7'; did you mean 'layers_"),
        ("embeddings", "the chain cannot be cut at embeddings; it can at layers_0, layers_1, pooler, or auto"),
        ("head", "the chain cannot be cut at head"),
    ],
)
def test_a_cut_that_is_none(at: str, said: str, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        files.tune(tiny, tmp_path / "run", f"probe:at={at}")
    assert not (tmp_path / "run").exists()


def test_a_network_without_layers_has_nothing_to_cut(rng: np.random.Generator) -> None:
    variables = {"params": {"table": rng.normal(size=(40, 8)).astype(np.float32)}}
    model = tl.Model.from_function(lambda p, tokens: p["table"][tokens].mean(1), variables, writes="pooled")
    task = tl.tasks.TextClassification(labels=("a", "b"))
    with pytest.raises(InputError, match="not a chain of layers with a pooling behind"):
        tl.methods.parse(AUTO)(task.attach(model), variables, jax.random.key(0), {"tokens": np.zeros((1, 4), np.int32)})


def test_the_chosen_probe_is_reopened_resumed_and_made_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    run = tl.finetune(tiny.mean, tiny.train, eval_data=tiny.test, method=AUTO, out=tmp_path / "run")
    said = capsys.readouterr().err
    assert "cross-validated on the training examples: layers_0 " in said and f"chosen: {method_of(run)}" in said
    assert run.experiment.method == "probe:C=1,at=auto" and "standardize=true" in method_of(run)
    texts = [text for text, _ in files.messages(6)]
    again = tl.open_run(run.folder)
    assert again.predict(texts) == run.predict(texts)
    assert again.evaluate() == run.evaluate() and method_of(again) == method_of(run)
    given = {"eval_data": tiny.test, "quiet": True}
    same = tl.finetune(tiny.mean, tiny.train, method=AUTO, out=tmp_path / "run", resume=True, **given)
    assert same.predict(texts) == run.predict(texts)
    # In a new place with an empty cache: the same bits.
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "empty"))
    tl.finetune(tiny.mean, tiny.train, method=AUTO, out=tmp_path / "other", **given)
    assert files.result(tmp_path / "other") == files.result(tmp_path / "run")
    # And its own words name the probe that it is, but for rounding.
    named = tl.finetune(tiny.mean, tiny.train, method=method_of(run), out=tmp_path / "named", **given)
    assert named.summary["metrics"]["loss"] == pytest.approx(run.summary["metrics"]["loss"], rel=1e-5)


def test_what_is_held_out_has_no_say(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other labels of the evaluation data and of validation leave the choice as it is; one pass makes all features."""
    monkeypatch.setenv("TL_JAX_CACHE", str(tmp_path / "cache"))
    passes: list[tuple[bool, int]] = []
    original = prefixes.Prefixes._fill

    def counted(self: Any, cut: str, sweep: bool, examples: Any, arrays: Any) -> None:
        passes.append((sweep, len(examples)))
        original(self, cut, sweep, examples, arrays)

    monkeypatch.setattr(prefixes.Prefixes, "_fill", counted)
    rows = {"train": files.messages(120), "validation": files.messages(30, seed=3), "test": files.messages(40, seed=4)}
    runs = []
    for turned in (False, True):
        given = dict(rows)
        if turned:
            for name in ("validation", "test"):
                given[name] = [(text, {"account": "billing", "billing": "account"}.get(y, y)) for text, y in rows[name]]
        folder = tmp_path / f"data-{turned}"
        folder.mkdir()
        for name, lines in given.items():
            text = "\n".join(json.dumps({"text": text, "label": label}) for text, label in lines)
            (folder / f"{name}.jsonl").write_text(text + "\n", encoding="utf-8")
        runs.append(tl.finetune(tiny.mean, folder, method=AUTO, out=tmp_path / f"run-{turned}", quiet=True))
    assert method_of(runs[0]) == method_of(runs[1])
    assert runs[0].summary["metrics"] != runs[1].summary["metrics"]
    assert passes == [(True, 120), (True, 30), (True, 40)]


def test_it_is_compared_like_any_method(tiny: Tiny, tmp_path: Path) -> None:
    given: dict[str, Any] = {"eval_data": tiny.test, "shots": "6,all", "seeds": 2, "quiet": True}
    found = tl.compare(tiny.mean, tiny.train, methods=f"probe,{AUTO}", out=tmp_path / "c", **given)
    assert {cell.method for cell in found.results.cells} == {"probe", AUTO}


def test_its_plan_says_so_and_nothing_runs(tiny: Tiny, tmp_path: Path) -> None:
    table = tl.finetune(tiny.mean, tiny.train, method=AUTO, out=tmp_path / "run", dry_run=True, quiet=True)
    assert table.startswith("probe:C=1,at=auto: ") and not (tmp_path / "run").exists()


def test_a_run_of_a_plan_that_left_its_cut_open_is_opened_with_that_plan(tiny: Tiny, tmp_path: Path) -> None:
    model, variables = tl.load(tiny.mean)
    task = tl.tasks.TextClassification(labels=("account", "billing", "delivery"))
    plan = tl.methods.parse(AUTO)(task.attach(model), variables, jax.random.key(0))
    run = tl.finetune(plan, tiny.train, out=tmp_path / "run", quiet=True)
    texts = [text for text, _ in files.messages(6)]
    assert tl.open_run(tmp_path / "run", model=plan).predict(texts) == run.predict(texts)
