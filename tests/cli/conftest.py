"""A stand-in for what lies behind the commands, so that their tests cost no training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tl_jax.experiment import Experiment


class Interrupted(Exception):
    """As `tl_jax.training.loop.Interrupted`."""


@dataclass
class Behind:
    """What the commands asked for, and the run they get; `failure` is raised by fine-tuning."""

    finetuned: list[tuple[Experiment, dict[str, Any]]] = field(default_factory=list)
    opened: list[tuple[str, str | None]] = field(default_factory=list)
    predicted: list[list[str]] = field(default_factory=list)
    drawn: list[dict[str, Any]] = field(default_factory=list)
    evaluated: list[dict[str, Any]] = field(default_factory=list)
    exported: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failure: Exception | None = None
    batch_size: int | None = None

    folder: Path = Path("runs/a name")
    role: str = "text"
    text_column: str = "message"
    metrics: dict[str, Any] = field(default_factory=lambda: {"accuracy": 0.75})
    summary: dict[str, Any] = field(default_factory=lambda: {"scored_on": "validation", "steps": 40})
    manifest: dict[str, Any] = field(default_factory=lambda: {"data": {"examples": {"validation": 31, "test": 1600}}})

    def finetune(self, experiment: Experiment, **switches: Any) -> Any:
        self.finetuned.append((experiment, switches))
        if self.failure is not None:
            raise self.failure
        return "the plan" if switches.get("dry_run") else self

    def open_run(self, folder: str, *, model: str | None, say: Callable[[str], None]) -> Behind:
        say("as it opens")
        self.opened.append((folder, model))
        return self

    def predict(self, texts: Sequence[str], *, batch_size: int | None = None, **how: Any) -> list[dict[str, Any]]:
        self.predicted.append(list(texts))
        self.batch_size = batch_size
        if how:
            self.drawn.append(how)
            return [{"text": text, "continuation": " and so on"} for text in texts]
        return [{"text": text, "label": "äh", "probabilities": {"äh": 0.75, "no": 0.25}} for text in texts]

    def evaluate(self, **choices: Any) -> dict[str, Any]:
        self.evaluated.append(choices)
        return self.metrics

    def export(self, folder: str, **choices: Any) -> Path:
        self.exported.append((folder, choices))
        return Path(folder)


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Behind:
    """Replaces fine-tuning and runs by a stand-in that writes down what it is asked."""
    stand_in = Behind()
    modules: dict[str, dict[str, Any]] = {
        "tl_jax.finetuning": {"finetune": stand_in.finetune},
        "tl_jax.run": {"open_run": stand_in.open_run},
        "tl_jax.training": {},
        "tl_jax.training.loop": {"Interrupted": Interrupted},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in
