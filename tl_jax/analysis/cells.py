"""The cells of a comparison: one method on one size of training set with one seed, each a fine-tune kept in memory.

All cells have the model, the held-out examples and the shapes of batches in common, so that what was compiled for one
cell of a method serves all its others, whatever their size, seed, rate or budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from tl_jax import data as data_room
from tl_jax.analysis.results import Result, is_scratch
from tl_jax.assembly import Assembly, make_plan, stored_leaves, with_stored
from tl_jax.errors import InputError
from tl_jax.groups import FROZEN
from tl_jax.methods import Method, Plan
from tl_jax.model import Model
from tl_jax.preparation import Job, Request, check_settings, load_for, prepare, recipe_of, task_of
from tl_jax.rules import paths
from tl_jax.sweeping import settled
from tl_jax.tasks import is_labelled
from tl_jax.training.evaluation import evaluate
from tl_jax.training.events import Events
from tl_jax.training.fitting import fit
from tl_jax.training.plan_table import plan_table
from tl_jax.training.recipe import Recipe
from tl_jax.training.store import InMemory

# Fields of an experiment that differ from cell to cell, or change rounding alone.
_OF_CELLS = ("method", "shots", "fraction", "seed", "out", "no_cache")


@dataclass(frozen=True)
class Cell:
    """Which cell: `shots` None is all labels; `rate` None is the method's own learning rate."""

    method: str
    shots: int | None
    seed: int
    rate: float | None = None

    def __str__(self) -> str:
        size = "all labels" if self.shots is None else f"{self.shots} labels a class"
        rate = "" if self.rate is None else f", learning rate {self.rate:g}"
        return f"{self.method}, {size}, seed {self.seed}{rate}"


@dataclass(frozen=True)
class Scored:
    """A finished cell, and how good it was on validation: the monitored metric, then the loss, negated."""

    result: Result
    validation: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class _Ready:
    """A cell before its first step."""

    assembly: Assembly
    recipe: Recipe
    batches: data_room.TrainBatches


@dataclass(frozen=True, eq=False)
class Bench:
    """What all cells have in common.

    `job` is the preparation of a run on all labels, `loaded` the model and variables as they came, `methods` the
    objects that the cells name. `drawn` are batches of a shape that holds what is drawn for any cell; None: the job's
    will do.
    """

    job: Job
    loaded: tuple[Model, Mapping[str, Any]]
    methods: Mapping[str, Method]
    drawn: data_room.TrainBatches | None = None

    @classmethod
    def open(cls, asked: Request, task: Any, methods: Mapping[str, Method], say: Callable[[str], object]) -> Bench:
        """Read the model and the data that were asked for; raises `InputError` where there is nothing to score on."""
        if not is_labelled(task_of(asked, task)):
            raise InputError(
                "compare scores classifiers; of language models compare the perplexities that runs end with"
            )
        loaded = asked.model or load_for(asked, task)
        bench = cls(prepare(replace(asked, model=loaded), task, say), loaded, methods)
        _ = bench.scored  # raises
        return bench

    def sized(self, sizes: Iterable[int | None], seeds: Iterable[int]) -> Bench:
        """The same for cells of these sizes and seeds, so that all that are drawn have one shape."""
        found = self
        for shots, seed in product(sizes, seeds):
            if shots is not None:
                found = replace(found, drawn=found.batches(shots, seed))  # of the shape before it, or a larger one
        return found

    def batches(self, shots: int | None, seed: int, recipe: Recipe | None = None) -> data_room.TrainBatches:
        """The training batches of a size and seed, the same for every method; `recipe` is the job's unless given."""
        examples, _ = self.chosen(shots, seed)
        like = self.job.train if shots is None or self.drawn is None else self.drawn
        return (recipe or self.job.recipe).batches(examples, like.pad, like=like)

    @property
    def definition(self) -> dict[str, Any]:
        """What must stay the same for cells to be comparable."""
        manifest = self.job.manifest
        shared = {name: value for name, value in asdict(self.job.experiment).items() if name not in _OF_CELLS}
        names = ("model", "data", "eval_data")  # a path is only a name: what lies there counts
        return {
            "tl_jax": manifest["tl_jax"],
            "machine": manifest["machine"],
            "task": {"name": manifest["task"], "loss": manifest["loss"]},
            "model": manifest["model"]["variables"],
            "data": {**manifest["data"]["fingerprints"], "labels": manifest["labels"], "columns": manifest["columns"]},
            "settings": {name: value for name, value in shared.items() if name not in names},
            "names": {name: shared[name] for name in names},
        }

    @property
    def task(self) -> Any:
        """The task, with its labels."""
        return self.job.assembly.task

    @property
    def scored(self) -> data_room.Examples:
        """The examples a cell is scored on: the evaluation data, else the validation split."""
        found = self.job.validation if self.job.test is None else self.job.test
        if found is None:
            raise InputError("there is nothing to score on: too few examples to hold some out; give --eval-data")
        return found

    def chosen(self, shots: int | None, seed: int) -> tuple[data_room.Examples, tuple[str, ...]]:
        """The training examples of a size and seed, the same for every method, and what there is to say of them."""
        everything = self.job.train.examples
        if shots is None:
            return everything, ()
        names = [self.task.labels[target] for target in everything.targets]
        drawn = data_room.shots(names, shots, seed)
        return everything.select(drawn.indices), drawn.notes

    def check(self, cell: Cell) -> Recipe:
        """How a cell would train; raises `InputError` for settings that do not go together for it."""
        return self._ready(cell).recipe

    def table(self, cell: Cell) -> str:
        """The plan of a cell, before anything is compiled."""
        ready = self._ready(cell)
        keep, made = not self.job.experiment.no_cache, ready.assembly
        return plan_table(made.plan, made.model, self.task, ready.recipe, ready.batches, keep=keep)

    def run(self, cell: Cell, stop_asked: Callable[[], bool]) -> Scored:
        """Train and score one cell. Raises `Diverged`, and `Interrupted` when `stop_asked`."""
        ready = self._ready(cell)
        recipe, batches = ready.recipe, ready.batches
        placement = self.job.placement
        store = InMemory()
        with Events(quiet=True) as events:  # cells have no voice of their own
            say, drawn = events.message, batches.examples
            began = time.monotonic()
            assembly, prefixes = settled(self.job, ready.assembly, drawn, say, stop_asked, seed=cell.seed)
            settling = time.monotonic() - began  # `probe:at=auto` sweeps all layers there
            record = fit(
                assembly.plan,
                assembly.model,
                self.task,
                recipe,
                batches,
                self.job.validation,
                prefixes,
                stored=lambda variables: stored_leaves(assembly, variables),
                checkpoints=store,
                events=events,
                stop_asked=stop_asked,
                where=self.job.where,
                placement=placement,
            )
        best = store.restore_best()
        assert best is not None  # a fit that returns has kept one
        variables = placement.variables(with_stored(assembly, best.arrays))

        validation = record.get("validation")
        metrics = validation
        if self.scored is not self.job.validation:
            examples, start = prefixes.pooled(assembly.plan.cut, self.scored)
            once = self.job.passing.over(examples, batches.pad)
            metrics = evaluate(assembly.model, self.task, variables, once, recipe.precision, placement, start)
        assert metrics is not None
        monitor = self.task.monitor
        result = Result(
            method=cell.method,
            shots=cell.shots,
            seed=cell.seed,
            score=float(metrics[monitor]),
            examples=len(batches.examples),
            # Compiling is what all cells of a method share.
            seconds=settling + record["seconds"] - record.get("compile_seconds", 0.0),
            parameters=_trained(assembly.plan),
            learning_rate=recipe.rate if assembly.plan.stepped else None,
        )
        return Scored(result, None if validation is None else (float(validation[monitor]), -float(validation["loss"])))

    def _ready(self, cell: Cell) -> _Ready:
        e = replace(self.job.experiment, method=cell.method, seed=cell.seed)
        if cell.rate is not None or is_scratch(cell.method):  # whose rate is never that of the others
            e = replace(e, lr=cell.rate)
        plan = make_plan(*self.loaded, self.task, self.methods[cell.method], seed=cell.seed)
        assembly = Assembly.of(plan, self.task, precision=e.precision, loaded=self.loaded[1])
        recipe = recipe_of(e, plan)
        batches = self.batches(cell.shots, cell.seed, recipe)
        check_settings(plan, recipe, self.task, batches)
        return _Ready(assembly, recipe, batches)


def _trained(plan: Plan) -> int:
    labels = paths(plan.labels)
    return sum(leaf.size for path, leaf in paths(plan.variables).items() if labels.get(path, FROZEN) is not FROZEN)
