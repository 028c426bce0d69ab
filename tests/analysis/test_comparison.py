"""Real comparisons of a small BERT on small files: what is in them, what they share, how they go on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.laws.test_compilations import compilations
from tests.tiny import Tiny
from tl_jax import preparation
from tl_jax.analysis import running
from tl_jax.analysis.cells import Bench, Cell
from tl_jax.data import PackedBatches
from tl_jax.methods import parse
from tl_jax.training import interrupt

SETTINGS: dict[str, Any] = {"methods": "scratch,probe,lora:rank=4", "shots": "4,all", "seeds": 2, "steps": 8}
RATES = (1e-3, 3e-3)


@pytest.fixture(autouse=True)
def two_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "RATES", RATES)


def compared(tiny: Tiny, out: Path, **changes: Any) -> Any:
    settings = {"eval_data": tiny.test, "batch_size": 16, "quiet": True, **SETTINGS, **changes}
    return tl.compare(tiny.mean, tiny.train, out=out, **settings)


@dataclass(frozen=True)
class Whole:
    """A comparison that nobody stopped, and how often it asked whether it should; nobody changes it."""

    found: Any
    asked: int


@pytest.fixture(scope="module")
def undisturbed(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    asked = count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "RATES", RATES)
        patch.setattr(interrupt.Interrupt, "requested", property(lambda self: next(asked) < 0))
        found = compared(tiny, tmp_path_factory.mktemp("whole") / "c")
    return Whole(found, next(asked))


@pytest.fixture(scope="module")
def whole(undisturbed: Whole) -> Any:
    return undisturbed.found


def told(folder: Path) -> dict[str, Any]:
    """All of the table that no clock decided."""
    table: dict[str, Any] = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    return {name: value for name, value in table.items() if name != "time"}


def test_every_cell_is_there_once(whole: Any) -> None:
    cells = [(c.method, c.shots, c.seed) for c in whole.results.cells]
    methods = ["scratch", "probe", "lora:rank=4"]
    assert cells == [(m, size, seed) for m in methods for size in (4, None) for seed in (0, 1)]
    names = {path.name for path in (whole.folder / "cells").iterdir()}
    assert {"probe-4-0.json", "probe-all-1.json", "lora-rank=4-all-0.json"} <= names
    (rate,) = {c.learning_rate for c in whole.results.cells if c.method == "scratch"}
    assert {f"scratch-all-0-lr={r:g}.json" for r in RATES} | {f"scratch-4-1-lr={rate:g}.json"} <= names
    assert len(names) == 8 + 2 + 3  # of the five cells of scratch one is a trial
    counts = {c.shots: c.examples for c in whole.results.cells}
    assert counts[4] == 12 and 180 <= counts[None] <= 195
    assert {c.parameters for c in whole.results.cells if c.method == "probe"} == {32 * 3 + 3}


def test_what_is_printed(whole: Any) -> None:
    text = str(whole)
    assert text.startswith(whole.table) and all(sentence in text for sentence in whole.verdict)
    for name in ("the linear probe", "fine-tuning (lora:rank=4)"):
        assert sum(name in sentence and "scratch" in sentence for sentence in whole.verdict) == 2, text  # a size each
    assert whole.picture.read_bytes().startswith(b"\x89PNG")
    table = told(whole.folder)
    assert table["verdict"] == list(whole.verdict) and table["classes"] == 3


def test_the_rate_of_scratch_is_the_best_on_validation(whole: Any) -> None:
    trials = {}
    for rate in RATES:
        cell = json.loads((whole.folder / "cells" / f"scratch-all-0-lr={rate:g}.json").read_text())
        trials[rate] = tuple(cell["validation"])
    assert {c.learning_rate for c in whole.results.cells if c.method == "scratch"} == {max(trials, key=trials.get)}


def test_a_cell_is_the_run_of_its_method(whole: Any, tiny: Tiny, tmp_path: Path) -> None:
    """The fine-tune that the command makes, with the same examples, to the same score; the probe to the last digit."""
    for method, size in (("probe", 4), ("probe", None)):
        settings = {"method": method, "shots": size, "seed": 1, "batch_size": 16, "eval_data": tiny.test}
        run = tl.finetune(tiny.mean, tiny.train, out=tmp_path / f"{method}{size}", quiet=True, **settings)
        assert whole.results.scores(method, size)[1] == run.metrics["accuracy"]


def test_validation_and_shots(whole: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody trains on validation; a seed draws the same for all methods, and the small draw is part of the large."""
    found: list[Bench] = []
    monkeypatch.setattr(Bench, "run", lambda self, cell, stop_asked: found.append(self) or pytest.fail("once"))
    with pytest.raises(pytest.fail.Exception):
        compared(tiny, tmp_path / "c")
    (bench,) = found
    held = set(texts(bench.job.validation))
    everything, _ = bench.chosen(None, 0)
    for seed in range(3):
        few, more = (set(texts(bench.chosen(size, seed)[0])) for size in (4, 8))
        assert few < more < set(texts(everything)) and not held & set(texts(everything))
        counts = np.bincount(bench.chosen(4, seed)[0].targets)
        assert counts.tolist() == [4, 4, 4]
    assert set(texts(bench.chosen(4, 0)[0])) != set(texts(bench.chosen(4, 1)[0]))
    lengths = {ready.batches.lengths for ready in (bench._ready(Cell("probe", size, 0)) for size in (4, None))}
    assert lengths == {bench.job.train.lengths}


def texts(examples: Any) -> list[tuple[int, ...]]:
    return [tuple(examples.tokens[a:b]) for a, b in zip(examples.offsets, examples.offsets[1:], strict=False)]


def test_one_compilation_for_all_cells_of_a_method(tiny: Tiny, tmp_path: Path) -> None:
    """One seed of each size compiles all there is: seeds, rates, and methods that differ in name compile nothing."""
    model = tl.load(files.write_bert(tmp_path / "model", intermediate_size=44))  # its own: nothing is compiled yet
    given = {"eval_data": tiny.test, "batch_size": 16, "quiet": True, "steps": 4, "shots": "4,8,all"}
    rows = files.messages(210)
    with compilations() as first:
        tl.compare(model, rows, methods="lora:rank=2,full,probe,lp_ft", seeds=1, out=tmp_path / "a", **given)
    # Training and evaluation, with and without adapters, and evaluation of the head alone; training once more if what
    # is drawn does not fit into the shape of all labels.
    assert first.count("jit(step)") in (6, 9)
    assert first.count("jit(_below)") == 1
    with compilations() as names:
        methods = "lora:rank=2,full,probe,lp_ft,scratch"
        found = tl.compare(model, rows, methods=methods, seeds=1, out=tmp_path / "a", resume=True, **given)
    assert len(found.results.cells) == 15
    assert not {"jit(step)", "jit(_below)"} & set(names)


def test_cells_of_equal_size_share_a_shape(tiny: Tiny) -> None:
    """Whatever the seed drew, long texts or short ones."""
    rows = [(text * (4 if i % 5 == 0 else 1), label) for i, (text, label) in enumerate(files.messages(210))]
    asked = preparation.request(tiny.mean, rows, {"batch_size": 16, "method": "full"})
    bench = Bench.open(asked, None, {"full": parse("full")}, print)
    assert isinstance(bench.job.train, PackedBatches)

    def shapes(bench: Bench, shots: int | None) -> set[Any]:
        batches = [bench.batches(shots, seed).batch(0) for seed in range(10)]
        return {(batch["tokens"].shape, batch["starts"].shape) for batch in batches}

    assert len(shapes(bench, 6)) > 1
    bench = bench.sized((5, 6, None), range(10))
    assert len(shapes(bench, None)) == len(shapes(bench, 6)) == 1 and shapes(bench, 5) == shapes(bench, 6)


def test_more_seeds_sizes_and_methods_are_added_to_what_there_is(whole: Any, tiny: Tiny, tmp_path: Path) -> None:
    ran: list[Cell] = []
    run = Bench.run

    def counted(self: Bench, cell: Cell, stop_asked: Any) -> Any:
        ran.append(cell)
        return run(self, cell, stop_asked)

    few = {"methods": "probe", "shots": "4"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "run", counted)
        compared(tiny, tmp_path / "c", **few, seeds=1)
        assert ran == [Cell("probe", 4, 0)]
        found = compared(tiny, tmp_path / "c", methods="probe", shots="4,8", seeds=2, resume=True)
        assert ran[1:] == [Cell("probe", 4, 1), Cell("probe", 8, 0), Cell("probe", 8, 1)]
        again = compared(tiny, tmp_path / "c", methods="probe", shots="4,8", seeds=2, resume=True)
        assert len(ran) == 4 and str(again) == str(found)
    assert found.results.scores("probe", 4) == whole.results.scores("probe", 4)


def test_stopped_anywhere_and_resumed_it_prints_the_same(
    undisturbed: Whole, tiny: Tiny, tmp_path: Path, rng: Any
) -> None:
    """Asked to stop at drawn moments, in the middle of cells too; the kill of a process is tested with the command."""
    out, whole = tmp_path / "c", undisturbed.found
    stops = 0
    # A stopped comparison keeps no more than it asked for, so that all three moments come before the end.
    sixth = undisturbed.asked // 6
    for moment in (*rng.integers(1, sixth, 2), rng.integers(sixth, 4 * sixth)):
        asked = iter([False] * int(moment) + [True] * 1000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(interrupt.Interrupt, "requested", property(lambda self, asked=asked: next(asked)))
            with pytest.raises(tl.Interrupted, match=r"stopped in .*; the cells before it are kept"):
                compared(tiny, out, resume=True)
        stops += 1
        assert not (out / "table.json").exists()
    found = compared(tiny, out, resume=True)
    assert stops == 3 and told(out) == told(whole.folder)
    assert found.verdict == whole.verdict
    assert (out / "curve.png").read_bytes() == whole.picture.read_bytes()


def test_the_two_doors(tiny: Tiny, tmp_path: Path) -> None:
    """Objects in place of names: a model in memory, pairs, methods with their parameters, a list of seeds."""
    model = tl.load(tiny.mean)
    methods = [tl.methods.probe(C=0.1), "probe"]
    found = tl.compare(model, files.messages(90), methods=methods, shots=[4], seeds=[5], out=tmp_path / "c", quiet=True)
    assert found.results.methods == ("probe:C=0.1", "probe") and {c.seed for c in found.results.cells} == {5}
    assert any("which also chose the best step" in note for note in found.notes)
    assert any("one seed gives no interval" in note for note in found.notes)
    assert not any("scratch" in note for note in found.notes)


def test_a_diverging_cell_is_named_and_a_diverging_rate_passed_over(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(running, "RATES", (1e30, 1e-3))
    few = {"shots": "all", "seeds": 1, "steps": 4}
    found = compared(tiny, tmp_path / "c", methods="scratch", quiet=False, **few)
    said = capsys.readouterr().err
    assert "scratch, all labels, seed 0, learning rate 1e+30: training diverged at step" in said
    assert {c.learning_rate for c in found.results.cells} == {1e-3}
    with pytest.raises(tl.Diverged, match="full, all labels, seed 0: training diverged at step"):
        compared(tiny, tmp_path / "d", methods="full", lr=1e30, **few)
    monkeypatch.setattr(running, "RATES", (1e30,))
    with pytest.raises(tl.Diverged, match=r"scratch diverged at every learning rate of 1e\+30"):
        compared(tiny, tmp_path / "e", methods="scratch", **few)


def test_the_rates_that_scratch_may_choose_are_its_optimisers(tiny: Tiny, tmp_path: Path) -> None:
    """A hundred times AdamW's for SGD, as its own default is: else scratch would be held back."""
    few = {"methods": "scratch", "shots": "4", "seeds": 1, "steps": 2, "optimizer": "sgd"}
    compared(tiny, tmp_path / "c", **few)
    names = {path.name for path in (tmp_path / "c" / "cells").iterdir()}
    assert names == {"scratch-4-0-lr=0.1.json", "scratch-4-0-lr=0.3.json"}


def test_a_dry_run_writes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    said = compared(tiny, tmp_path / "c", dry_run=True)
    assert said.count("parameters train") == 3
    assert said.endswith("3 methods × 2 sizes × 2 seeds, and 2 rates for scratch to choose from")
    assert list(tmp_path.iterdir()) == []


def test_settings_that_do_not_go_together_are_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    """Also where only a later method or a smaller size is concerned."""
    own = tl.tasks.TextClassification(loss=lambda logits, targets: -logits[:, 0] + 0 * targets)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"methods": "probe,full", "lr": 0.0}, "the learning rate must be a positive number"),
        ({"methods": "full", "steps": None, "warmup": 61, "shots": "4,all"}, "warm-up must be a whole number of the"),
        ({"methods": "full,probe", "task": own}, "probe solves logistic regression and cannot use your own loss"),
        ({"methods": "probe", "seeds": [0, 2**33]}, "a list of seeds below"),
        ({"methods": "probe", "stepz": 3}, "compare has no setting 'stepz'; did you mean 'steps'"),
        ({"methods": "probe", "method": "full"}, "compare has no setting 'method': give methods="),
    ]
    for changes, message in wrong:
        with pytest.raises(tl.InputError, match=message):
            compared(tiny, tmp_path / "c", **changes)
        assert not (tmp_path / "c").exists()
    experiment = tl.Experiment(model=str(tiny.mean), data=str(tiny.train))
    with pytest.raises(tl.InputError, match="give it a model, not an experiment"):
        tl.compare(experiment, out=tmp_path / "c")
