"""Running the cells of a comparison, those that are not finished yet: the rate of scratch first, then one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tl_jax.analysis.cells import Bench, Cell, Scored
from tl_jax.analysis.folder import ComparisonFolder
from tl_jax.analysis.results import SCRATCH, is_scratch
from tl_jax.training.defaults import rate_scale
from tl_jax.training.loop import Diverged, Interrupted

# Random weights want another rate than pre-trained ones: scratch chooses its own, once, on validation.
RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)  # of AdamW

Say = Callable[[str], object]


@dataclass(frozen=True)
class Runner:
    """Runs a cell that is not finished yet, and keeps it."""

    bench: Bench
    folder: ComparisonFolder
    stop_asked: Callable[[], bool]
    say: Say

    def __call__(self, cell: Cell, place: str, *, trial: bool = False) -> Scored:
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
            raise Diverged(f"{cell}: {str(e).partition(';')[0]}") from None
        self.folder.save(cell, found)
        result = found.result
        # A trial is shown by what it is judged by.
        score = f"{self.bench.task.monitor} {result.score:.1%}"
        if trial and found.validation is not None:
            score = f"validation {self.bench.task.monitor} {found.validation[0]:.1%}"
        self.say(f"{place}: {cell}: {score} in {result.seconds:.1f} s")
        return found


def all_cells(
    run: Runner, methods: list[str], wanted: tuple[int | None, ...], numbers: tuple[int, ...]
) -> list[Scored]:
    """Every cell, run or read; the rate of scratch is chosen first, on validation."""
    trials: dict[Cell, Scored] = {}
    rate = None
    if any(map(is_scratch, methods)) and run.bench.job.validation is not None:
        trials = _trials(run, wanted[-1], numbers[0])
        rate = max(trials, key=lambda cell: trials[cell].validation or ()).rate
        run.say(f"{SCRATCH} learns at {rate:g}, the best of {len(RATES)} rates on validation")
    cells = [
        Cell(method, size, seed, rate if is_scratch(method) else None)
        for size in wanted
        for method in methods
        for seed in numbers
    ]
    found = []
    for i, cell in enumerate(cells, 1):
        try:
            found.append(trials.get(cell) or run(cell, f"cell {i} of {len(cells)}"))
        except Diverged as e:
            raise Diverged(f"{e}; leave {cell.method} out, or give another --out and a lower --lr") from None
    return found


def _trials(run: Runner, size: int | None, seed: int) -> dict[Cell, Scored]:
    """Scratch at each rate that does not diverge; raises `Diverged` if all do."""
    trials = {}
    scale = rate_scale(run.bench.job.experiment.optimizer)
    rates = [float(f"{scale * rate:.3g}") for rate in RATES]  # as they are told, and found again in the folder
    for i, rate in enumerate(rates, 1):
        cell = Cell(SCRATCH, size, seed, rate)
        try:
            trials[cell] = run(cell, f"rate {i} of {len(rates)} for {SCRATCH}", trial=True)
        except Diverged as e:
            run.say(str(e))
    if not trials:
        raise Diverged(f"{SCRATCH} diverged at every learning rate of {', '.join(f'{rate:g}' for rate in rates)}")
    return trials
