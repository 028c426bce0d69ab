"""A method at the best of its rates, on one data set at one size: what `benchmarks/defaults.py` holds defaults against.

Cells are those of `tl-jax compare`, kept in a folder under `runs/defaults`: a finished one is not run again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tl_jax import preparation
from tl_jax.analysis.cells import Bench, Cell, Scored
from tl_jax.analysis.folder import ComparisonFolder
from tl_jax.analysis.running import Runner
from tl_jax.methods import parse

METHODS = ("probe", "full", "lp_ft", "lora")
FACTORS = (0.4, 1.0, 2.5)  # of a method's default rate: among these it has its own best
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """What a method scored; `tried` are validation scores at each of `FACTORS` with the first seed."""

    name: str
    rate: float | None
    tried: tuple[float, ...]
    scores: tuple[float, ...]
    seconds: float

    @classmethod
    def of(cls, name: str, found: Sequence[Scored], tried: tuple[float, ...] = ()) -> Row:
        """The row of one cell for each seed."""
        results = [scored.result for scored in found]
        scores = tuple(result.score for result in results)
        return cls(name, results[0].learning_rate, tried, scores, fmean(result.seconds for result in results))

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.scores)

    @property
    def error(self) -> float:
        """The standard error of the mean over the seeds."""
        return stdev(self.scores) / len(self.scores) ** 0.5


@dataclass(frozen=True)
class Desk:
    """Where the cells of one data set and one budget are run, and kept."""

    bench: Bench
    run: Runner
    seconds: dict[tuple[str, Cell], float]  # what each cell took that was asked for, of this desk and others

    @classmethod
    def open(
        cls,
        seconds: dict[tuple[str, Cell], float],
        name: str,
        model: str,
        data: Mapping[str, str],
        shots: Sequence[int | None],
        stop_asked: Callable[[], bool],
        **budget: int,
    ) -> Desk:
        """Read model and data, and go on with the cells that are there."""
        out = f"runs/defaults/{'-'.join([name, *map(str, budget.values())])}"
        asked = preparation.request(model, None, {**data, **budget, "out": out})
        bench = Bench.open(asked, None, {method: parse(method) for method in METHODS}, tell).sized(shots, SEEDS)
        folder = ComparisonFolder(out)
        folder.check_free(resume=True, overwrite=False)
        folder.begin({**bench.definition, "recipes": {}}, resume=True, say=tell)
        return cls(bench, Runner(bench, folder, stop_asked, tell), seconds)

    @property
    def default(self) -> str:
        """The method where none is named."""
        return str(self.bench.job.experiment.method).partition(":")[0]

    def steps(self, shots: int | None) -> tuple[int, int]:
        """The default number of steps at a size, and the batch size."""
        recipe = self.bench.check(Cell(self.default, shots, SEEDS[0]))
        return recipe.total(self.bench.batches(shots, SEEDS[0]).steps_per_epoch), recipe.batch_size

    def cells(self, method: str, shots: int | None, rate: float | None, seeds: Sequence[int] = SEEDS) -> list[Scored]:
        """Run, or read, a method at a rate (None: its default) once for each seed."""
        place, found = self.run.folder.path.name, []
        for seed in seeds:
            cell = Cell(method, shots, seed, rate)
            found.append(self.run(cell, place))
            used = found[-1].result.learning_rate
            if used is not None and used != (now := self.bench.check(cell).rate):
                sys.exit(f"error: {place}: {cell} has the rate {used:g}, which is {now:g} by now: remove it")
            self.seconds[place, cell] = found[-1].result.seconds
        return found

    def at_default(self, method: str, shots: int | None, name: str) -> Row:
        """A method without any flag."""
        return Row.of(name, self.cells(method, shots, None))

    def at_its_best(self, method: str, shots: int | None) -> Row:
        """A method at the best of its rates, chosen on validation with the first seed."""
        rates: list[float | None] = [None]  # the default one
        if method != "probe":  # which has no rate
            usual = self.bench.check(Cell(method, shots, SEEDS[0])).rate
            rates = [None if factor == 1 else float(f"{factor * usual:.3g}") for factor in FACTORS]
        first = {rate: self.cells(method, shots, rate, SEEDS[:1])[0] for rate in rates}
        best = max(first, key=lambda rate: first[rate].validation or ())
        tried = tuple(scored.validation[0] for scored in first.values() if scored.validation) if len(rates) > 1 else ()
        return Row.of(f"`{method}`", [first[best], *self.cells(method, shots, best, SEEDS[1:])], tried)


def tell(text: str) -> None:
    """On the way: not part of what is printed."""
    print(text, file=sys.stderr, flush=True)
