"""What the transfer bought you: methods against each other and against no transfer at all, on your own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_jax import preparation
from tl_jax.analysis import running
from tl_jax.analysis.cells import Bench, Cell
from tl_jax.analysis.folder import ComparisonFolder
from tl_jax.analysis.grid import METHODS, SEEDS, SHOTS, listed_methods, seed_numbers, sizes
from tl_jax.analysis.picture import curve
from tl_jax.analysis.results import SCRATCH, Results, is_scratch
from tl_jax.analysis.running import Runner, all_cells
from tl_jax.analysis.table import json_table, text_table
from tl_jax.analysis.verdict import sentences
from tl_jax.errors import InputError
from tl_jax.experiment import Experiment
from tl_jax.manifest import write_json
from tl_jax.methods import Method, Plan, parse
from tl_jax.training.events import Events
from tl_jax.training.interrupt import Interrupt
from tl_jax.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Comparison:
    """A finished comparison; printed, it is the table and what it shows.

    `results` holds every cell, `picture` is the curve as a PNG in `folder`, `notes` what there is to know beside.
    """

    folder: Path
    results: Results
    classes: int
    notes: tuple[str, ...] = ()

    @property
    def picture(self) -> Path:
        """The curve of scores over labels a class."""
        return ComparisonFolder(self.folder).picture

    @property
    def table(self) -> str:
        """Score ± half its 95 % interval, seconds and parameters, a line for each method and size."""
        return text_table(self.results, classes=self.classes)

    @property
    def verdict(self) -> tuple[str, ...]:
        """What the intervals show, a sentence each."""
        return tuple(sentences(self.results, classes=self.classes))

    def __str__(self) -> str:
        return "\n".join([self.table, "", *self.verdict, *(f"note: {note}" for note in self.notes)])


def compare(
    model: Any = None,
    data: Any = None,
    *,
    methods: str | Sequence[str | Method] = METHODS,
    shots: Any = SHOTS,
    seeds: int | Sequence[int] = SEEDS,
    task: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Any:
    """Compare `methods` at sizes `shots` over `seeds` and return the `Comparison` (with `dry_run` the plans' tables).

        found = tl.compare("sentence-transformers/all-MiniLM-L6-v2", "tickets.csv", shots="8,32,all")
        print(found)           # the table and the verdict; found.picture is the curve

    A cell is one method on one size with one seed. Equal sizes and seeds have equal training examples, whatever the
    method, and validation is the same for all: one tenth of the training set that no cell trains on (or the split of
    that name). Cells are scored on `eval_data`, else on the test split, else on validation. `scratch` starts from
    random weights and sees the same number of examples; its learning rate is the best on validation of five, chosen
    once, with the first seed at the largest size.

    Args:
        model: a folder, a hub name, or a pair `(model, variables)`.
        data: a file or folder, a list of pairs or dicts, a `Dataset`; `eval_data=` likewise.
        methods: names with their parameters, or objects of `tl_jax.methods`.
        shots: training examples a class, `"all"` (or None) for all.
        seeds: how many (3 is 0, 1, 2), or which.
        task: a task's name, or a task object with your own labels, loss or metrics.
        resume: go on with the comparison in `out`; what is finished is not run again, and more may be asked for.
        overwrite: replace it.
        quiet: print nothing.
        settings: fields of `Experiment` that all cells share; `lr` is that of every method but `scratch`.

    Raises `InputError` for what cannot be used, before anything is written; `Diverged` naming the cell; `Interrupted`
    when Ctrl-C or SIGTERM asks it to stop: finished cells are kept.
    """
    for name in ("method", "seed", "fraction"):
        if name in settings:
            raise InputError(f"compare has no setting {name!r}: give methods=, shots= and seeds=")
    task, settings = preparation.named_task(task, settings)
    chosen = _methods(methods)
    wanted, numbers = sizes(shots), seed_numbers(seeds)
    if isinstance(model, Plan | Experiment):
        kind = "a plan" if isinstance(model, Plan) else "an experiment"
        raise InputError(f"compare makes plans and experiments itself: give it a model, not {kind}")
    asked = preparation.request(model, data, {**settings, "method": next(iter(chosen.values()))}, what="compare")
    short = preparation.short_name(asked.experiment.data or "")
    folder = ComparisonFolder(settings.get("out") or f"runs/{short}-compare")
    if not dry_run:
        folder.check_free(resume=resume, overwrite=overwrite)
    with Events(quiet=quiet) as events:
        bench = Bench.open(asked, task, chosen, events.message).sized(wanted, numbers)
        notes = _notes(bench, wanted, numbers)
        for note in notes:
            events.message(f"note: {note}")
        count = f"{len(chosen)} methods × {len(wanted)} sizes × {len(numbers)} seeds"
        if any(map(is_scratch, chosen)) and bench.job.validation is not None:
            count += f", and {len(running.RATES)} rates for {SCRATCH} to choose from"
        recipes = {}
        for method in chosen:
            for size in wanted:
                recipes[method] = _own(bench.check(Cell(method, size, numbers[0])))
        if dry_run:
            return "\n\n".join([*(bench.table(Cell(method, wanted[-1], numbers[0])) for method in chosen), count])
        events.message(count)
        folder.begin({**bench.definition, "recipes": recipes}, resume=resume, say=events.message)
        with Interrupt() as interrupt:
            run = Runner(bench, folder, lambda: interrupt.requested, events.message)
            cells = all_cells(run, list(chosen), wanted, numbers)
        results = Results([scored.result for scored in cells], tuple(chosen), 1 / len(bench.scored))
        comparison = Comparison(folder.path, results, len(bench.task.labels), notes)
        table = {**json_table(results, classes=comparison.classes), "verdict": list(comparison.verdict)}
        write_json(folder.table_file, table)
        curve(results, folder.picture, title=f"{short}: {bench.task.monitor}", classes=comparison.classes)
        return comparison


def _methods(given: str | Sequence[str | Method]) -> dict[str, Method]:
    """The methods by the text that names each. Raises `InputError` for none, and for one named twice."""
    parts = listed_methods(given) if isinstance(given, str) else list(given)
    if not parts:
        raise InputError("--methods is empty: name two or more, such as scratch,probe,full")
    found: dict[str, Method] = {}
    for part in parts:
        method = parse(part)
        # As the user wrote it: defaults that nobody gave would only make the table wide.
        text = part.strip().removesuffix(":") if isinstance(part, str) else str(method)
        if method in found.values():
            raise InputError(f"--methods names {text} twice")
        found[text] = method
    return found


def _notes(bench: Bench, wanted: tuple[int | None, ...], numbers: tuple[int, ...]) -> tuple[str, ...]:
    """What a reader of the table should know."""
    notes: list[str] = []
    scratch = any(map(is_scratch, bench.methods))
    for size in wanted:
        _, told = bench.chosen(size, numbers[0])
        notes += told
    if bench.scored is bench.job.validation:
        rate = f" and the learning rate of {SCRATCH}" if scratch else ""
        notes.append(f"scores are of the validation examples, which also chose the best step{rate}: give --eval-data")
    if bench.job.validation is None:
        usual = f"{SCRATCH} has its usual rate, and " if scratch else ""
        notes.append(f"nothing was held out to choose by: {usual}the last step is the result")
    if len(numbers) == 1:
        notes.append("one seed gives no interval: nothing can be told from chance; --seeds 3 can")
    return tuple(notes)


def _own(recipe: Recipe) -> dict[str, Any]:
    """What a method does by itself: what of its recipe is not among the settings that all share."""
    return {"rate": recipe.rate, "schedule": recipe.schedule}
