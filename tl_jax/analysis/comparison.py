"""What the transfer bought you: methods against each other and against no transfer at all, on your own data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tl_jax import preparation, pretrained
from tl_jax.analysis.cells import Bench, Cell, Scored
from tl_jax.analysis.folder import ComparisonFolder
from tl_jax.analysis.grid import METHODS, SEEDS, SHOTS, listed_methods, seed_numbers, sizes
from tl_jax.analysis.picture import curve
from tl_jax.analysis.results import SCRATCH, Results
from tl_jax.analysis.table import json_table, text_table
from tl_jax.analysis.verdict import sentences
from tl_jax.errors import InputError
from tl_jax.manifest import write_json
from tl_jax.methods import Method, Plan, parse
from tl_jax.training.events import Events
from tl_jax.training.interrupt import Interrupt
from tl_jax.training.loop import Diverged, Interrupted

# Random weights want another rate than pre-trained ones: scratch chooses its own, once, on validation.
RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)
_OF_CELLS = ("method", "shots", "fraction", "seed", "out")  # fields of an experiment that differ from cell to cell

Say = Callable[[str], object]


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
        task: a task object with your own labels, loss or metrics.
        resume: go on with the comparison in `out`; what is finished is not run again, and more may be asked for.
        overwrite: replace it.
        quiet: print nothing.
        settings: fields of `Experiment` that all cells share; `lr` is that of every method but scratch.

    Raises `InputError` for what cannot be used, before anything is written; `Diverged` naming the cell; `Interrupted`
    when Ctrl-C or SIGTERM asks it to stop: finished cells are kept.
    """
    for name in ("method", "seed", "fraction"):
        if name in settings:
            raise InputError(f"compare has no setting {name!r}: give methods=, shots= and seeds=")
    chosen = _methods(methods)
    wanted, numbers = sizes(shots), seed_numbers(seeds)
    asked = preparation.request(model, data, {**settings, "method": next(iter(chosen))})
    if isinstance(asked.model, Plan):
        raise InputError("compare makes the plans itself: give it (model, variables), not a plan")
    asked = replace(asked, method=next(iter(chosen.values())))
    if "out" not in settings and asked.experiment.out is not None:
        out = f"{asked.experiment.out.rpartition('-')[0]}-compare"
        asked = replace(asked, experiment=replace(asked.experiment, out=out))
    folder = ComparisonFolder(asked.experiment.out or "")
    if not dry_run:
        folder.check_free(resume=resume, overwrite=overwrite)
    with Events(quiet=quiet) as events:
        bench = _bench(asked, task, chosen, events.message)
        notes = _notes(bench, wanted, numbers)
        for note in notes:
            events.message(f"note: {note}")
        tables = [bench.table(Cell(method, wanted[-1], numbers[0])) for method in chosen]
        count = f"{len(chosen)} methods × {len(wanted)} sizes × {len(numbers)} seeds"
        if dry_run:
            return "\n\n".join([*tables, count])
        events.message(count)
        folder.begin(_definition(bench), resume=resume)
        with Interrupt() as interrupt:
            run = _Runner(bench, folder, lambda: interrupt.requested, events.message)
            cells = _cells(run, list(chosen), wanted, numbers)
        results = Results([scored.result for scored in cells], tuple(chosen))
        comparison = Comparison(folder.path, results, len(bench.task.labels), notes)
        table = {**json_table(results, classes=comparison.classes), "verdict": list(comparison.verdict)}
        write_json(folder.table_file, table)
        title = f"{Path(bench.job.experiment.data or 'data').stem}: {bench.task.monitor}"
        curve(results, folder.picture, title=title, classes=comparison.classes)
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
        text = part if isinstance(part, str) else str(method)
        if method in found.values():
            raise InputError(f"--methods names {text} twice")
        found[text] = method
    return found


def _bench(asked: preparation.Request, task: Any, methods: dict[str, Method], say: Say) -> Bench:
    e = asked.experiment
    loaded = asked.model or pretrained.load(e.model or "", pooling=e.pooling)
    job = preparation.prepare(replace(asked, model=loaded), task, say)
    bench = Bench(job, loaded, methods)
    _ = bench.scored  # raises where there is nothing
    return bench


def _notes(bench: Bench, wanted: tuple[int | None, ...], numbers: tuple[int, ...]) -> tuple[str, ...]:
    """What a reader of the table should know."""
    notes: list[str] = []
    for size in wanted:
        _, told = bench.chosen(size, numbers[0])
        notes += told
    if bench.scored is bench.job.validation:
        notes.append("scores are of the validation examples, which also chose the best step: --eval-data is fairer")
    if bench.job.validation is None:
        notes.append(
            f"nothing was held out to choose by: {SCRATCH} has its usual rate, and the last step is the result"
        )
    if len(numbers) == 1:
        notes.append("one seed gives no interval: nothing can be told from chance; --seeds 3 can")
    return tuple(notes)


def _definition(bench: Bench) -> dict[str, Any]:
    """What must stay the same for cells to be comparable."""
    manifest = bench.job.manifest
    shared = {name: value for name, value in asdict(bench.job.experiment).items() if name not in _OF_CELLS}
    names = ("model", "data", "eval_data")  # a path is only a name: what lies there counts
    return {
        "tl_jax": manifest["tl_jax"],
        "machine": manifest["machine"],
        "model": manifest["model"]["variables"],
        "data": {**manifest["data"]["fingerprints"], "labels": manifest["labels"], "columns": manifest["columns"]},
        "settings": {name: value for name, value in shared.items() if name not in names},
        "names": {name: shared[name] for name in names},
    }


@dataclass(frozen=True)
class _Runner:
    """Runs a cell that is not finished yet, and keeps it."""

    bench: Bench
    folder: ComparisonFolder
    stop_asked: Callable[[], bool]
    say: Say

    def __call__(self, cell: Cell, place: str) -> Scored:
        """The cell, run or read. Raises `Diverged` naming the cell, `Interrupted` with nothing of it kept."""
        found = self.folder.load(cell, self.say)
        if found is not None:
            return found
        stopped = f"stopped in {place}; the cells before it are kept"
        if self.stop_asked():
            raise Interrupted(stopped)
        try:
            found = self.bench.run(cell, self.stop_asked)
        except Interrupted:
            raise Interrupted(stopped) from None
        except Diverged as e:
            raise Diverged(f"{cell}: {e}") from None
        self.folder.save(cell, found)
        result = found.result
        self.say(f"{place}: {cell}: {self.bench.task.monitor} {result.score:.1%} in {result.seconds:.1f} s")
        return found


def _cells(run: _Runner, methods: list[str], wanted: tuple[int | None, ...], numbers: tuple[int, ...]) -> list[Scored]:
    """Every cell, run or read; the rate of scratch is chosen first."""
    trials: dict[Cell, Scored] = {}
    if SCRATCH in methods and run.bench.job.validation is not None:
        trials = _trials(run, wanted[-1], numbers[0])
    rate = max(trials, key=lambda cell: trials[cell].validation or ()).rate if trials else None
    if rate is not None:
        run.say(f"{SCRATCH} learns at {rate:g}, the best of {len(RATES)} rates on validation")
    cells = [
        Cell(method, size, seed, rate if method == SCRATCH else None)
        for size in wanted
        for method in methods
        for seed in numbers
    ]
    return [trials.get(cell) or run(cell, f"cell {i} of {len(cells)}") for i, cell in enumerate(cells, 1)]


def _trials(run: _Runner, size: int | None, seed: int) -> dict[Cell, Scored]:
    """Scratch at each rate that does not diverge; raises `Diverged` if all do."""
    trials = {}
    for i, rate in enumerate(RATES, 1):
        cell = Cell(SCRATCH, size, seed, rate)
        try:
            trials[cell] = run(cell, f"rate {i} of {len(RATES)} for {SCRATCH}")
        except Diverged as e:
            run.say(str(e).partition(";")[0])
    if not trials:
        raise Diverged(f"{SCRATCH} diverged at every learning rate of {', '.join(f'{rate:g}' for rate in RATES)}")
    return trials
