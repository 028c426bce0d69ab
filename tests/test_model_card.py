"""The card of an exported model says what the run's own figures say, and nothing of the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tl_jax.model_card import model_card


def front(card: str) -> dict[str, Any]:
    import yaml

    _, head, _ = card.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def test_an_exported_folder_has_one(tuned: Callable[[str], Any], tmp_path: Path) -> None:
    run = tuned("probe")
    card = (run.export(tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    assert front(card) == {
        "library_name": "sentence-transformers",
        "pipeline_tag": "text-classification",
        "tags": ["tl_jax", "text-classification"],
        "metrics": ["accuracy", "f1"],
    }
    assert f"| accuracy | {run.metrics['accuracy']:.4f} |" in card
    for label, figures in run.metrics["per_class"].items():
        assert f"| {label} | {figures['precision']:.3f} | {figures['recall']:.3f} |" in card
    count = run.manifest["data"]["examples"][run.summary["scored_on"]]
    assert f"On {count} " in card and "`probe:C=1`" in card
    for path in (run.experiment.model, run.experiment.data, str(run.folder), str(tmp_path)):
        assert str(Path(path).parent) not in card


@pytest.mark.parametrize(
    ("form", "library", "use"),
    [
        ("hf", "transformers", "pipeline("),
        ("sentence-transformers", "sentence-transformers", "tl.load(FOLDER)"),
        ("tl_jax", "tl_jax", "tl.load(FOLDER)  #"),
        ("own", "tl_jax", "model=YOUR_MODEL"),
    ],
)
def test_forms(tuned: Callable[[str], Any], form: str, library: str, use: str) -> None:
    run = tuned("probe")
    card = model_card(run.experiment, run.manifest, run.summary, form)
    assert front(card)["library_name"] == library and use in card


def test_a_hub_name_is_the_base_model_and_a_run_without_examples_held_out_has_no_figures(
    tuned: Callable[[str], Any],
) -> None:
    run = tuned("probe")
    manifest = {**run.manifest, "model": {"revision": "0123", "source": "org/name"}}
    summary = {"scored_on": None, "metrics": {}, "steps": 40}
    card = model_card(replace(run.experiment, model="org/name"), manifest, summary, "hf")
    assert front(card)["base_model"] == "org/name" and "from org/name with" in card
    assert "40 steps of" in card and "accuracy |" not in card
    # In memory it is the same model.
    again = model_card(replace(run.experiment, model="in memory: org/name"), manifest, summary, "hf")
    assert front(again)["base_model"] == "org/name" and "from org/name with" in again


@pytest.mark.parametrize(
    ("source", "said"),
    [("./Qwen2.5-0.5B", "Made from Qwen2.5-0.5B with"), (None, "Made from a network in memory with")],
)
def test_what_it_was_made_from(source: str | None, said: str, tuned: Callable[[str], Any]) -> None:
    run = tuned("probe")
    manifest = {**run.manifest, "model": {**run.manifest["model"], "source": source}}
    card = model_card(replace(run.experiment, out="runs/v1.2"), manifest, run.summary, "hf")
    assert said in card and "\n# v1.2\n" in card


def test_a_solved_probe_has_no_best_step(tuned: Callable[[str], Any]) -> None:
    for method, chosen in (("probe", False), ("full", True)):
        run = tuned(method)
        summary = {**run.summary, "scored_on": "validation"}
        card = model_card(run.experiment, run.manifest, summary, "hf")
        assert ("which also chose the best step" in card) == chosen
