"""What each phase of a fit computes from: the examples, or what the frozen stages made of them once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tl_jax.data import Examples, ImageBatches, TrainBatches
from tl_jax.errors import InputError
from tl_jax.methods.plan import cut_of
from tl_jax.model import Model
from tl_jax.rules import paths
from tl_jax.training.evaluation import evaluate
from tl_jax.training.prefixes import Prefixes, handed

Check = Callable[[Any], dict[str, Any]]


def starts_of(model: Model, trained: Sequence[Any], passes: Sequence[float]) -> list[str | None]:
    """Where the steps of each phase start if features are kept; None is the beginning of the chain.

    `trained` are the labels of each phase, `passes` its passes over the examples. Features pay where they serve more
    than one pass, for making them takes one, and where more than lookups lies below. So a phase starts at the lowest
    stage that trains; short ones that follow each other share the lowest of their stages.
    """
    cuts = [cut if _works(model, cut, labels) else None for cut, labels in ((cut_of(model, t), t) for t in trained)]
    early = [phase for phase, cut in enumerate(cuts) if cut]  # what has thawed stays so: these are the first ones
    shared = cuts[early[-1]] if sum(passes[phase] for phase in early) > 1 else None
    return [(cut if passes[phase] > 1 else shared) if cut else None for phase, cut in enumerate(cuts)]


def _works(model: Model, cut: str, labels: Any) -> bool:
    """Whether the stages below `cut` hand something over that took more than looking up embeddings and norms."""
    kernels = (path for path in paths(labels) if path.rpartition("/")[2] not in ("embedding", "scale", "bias"))
    return bool(handed(model, cut)) and any(model.first_use(path) < model.index(cut) for path in kernels)


@dataclass(frozen=True, eq=False)
class Source:
    """Training batches and validation of a phase, for a chain that starts at `start` (None: at its beginning)."""

    start: str | None
    train: TrainBatches
    check: Check | None


@dataclass(frozen=True, eq=False)
class Sources:
    """Makes the source of a phase: steps start at the lowest stage that trains, where features are kept and pay."""

    model: Model
    task: Any
    train: TrainBatches
    validation: Examples | None
    prefixes: Prefixes

    def of(self, start: str | None) -> Source:
        """Of a phase whose steps start there, if features are kept; else at the beginning."""
        train = self.prefixes.features(start, self.train.examples) if start and self.prefixes.keep else None
        if train is None:
            return Source(None, self.train, self._check(None))
        self._say_of_changes(f"steps start from features of {start}: --no-cache trains on changed images")
        return Source(start, self.train.of(train), self._check(start))

    def of_solved(self, head: str) -> tuple[Any, Check | None]:
        """The `pooled` features `[N, D]` of the training examples, for a solver, and validation of its solution."""
        train = self.prefixes.features(head, self.train.examples)
        if train is None:
            raise InputError(
                f"solving the head needs room for a vector of each of {len(self.train.examples):,} examples: free disk "
                "and keep the cache, or step the head with --method last_layers:k=0"
            )
        self._say_of_changes("the head is solved on the images as they are")
        return train.features["pooled"].values, self._check(head if self.prefixes.keep else None)

    def _say_of_changes(self, why: str) -> None:
        """Features are those of images as they are."""
        if isinstance(self.train, ImageBatches) and self.train.change is not None:
            self.prefixes.say(f"note: augmentation is off where {why}")

    def _check(self, start: str | None) -> Check | None:
        p, examples = self.prefixes, self.validation
        if examples is not None and start is not None:
            examples = p.features(start, examples)
            start = start if examples is not None else None
        if self.validation is None:
            return None
        batches = p.passing.over(examples or self.validation, p.pad)
        model, task, how = self.model, self.task, (p.precision, p.placement, start)
        return lambda variables: evaluate(model, task, variables, batches, *how)
