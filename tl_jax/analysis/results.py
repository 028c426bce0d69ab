"""What the finished cells of a comparison measured. A cell is one method on one size of training set with one seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from tl_jax.errors import InputError, did_you_mean

SCRATCH = "scratch"  # the method that starts from random weights: what a transfer is measured against


@dataclass(frozen=True)
class Result:
    """One finished cell. Raises `InputError` for a value that cannot be.

    Attributes:
        method: as on the command line: `lora:rank=8`.
        shots: examples drawn of each class; None is all labels.
        seed: what drew them; equal seeds drew the same for every method.
        score: the metric, from 0 to 1, on the examples that the comparison scores on.
        examples: training examples used.
        seconds: wall-clock time of the fit, evaluations included, the compilation of its step not.
        parameters: how many trained.
        learning_rate: the peak rate; None where nothing has one.
    """

    method: str
    shots: int | None
    seed: int
    score: float
    examples: int
    seconds: float
    parameters: int
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        checks = {
            "method": ("a method's name", isinstance(self.method, str) and self.method != ""),
            "shots": ("a whole number above 0, or null", self.shots is None or _whole(self.shots, 1)),
            "seed": ("a whole number", _whole(self.seed, 0)),
            "score": ("a number from 0 to 1", _number(self.score) and self.score <= 1),
            "examples": ("a whole number above 0", _whole(self.examples, 1)),
            "seconds": ("a number of seconds", _number(self.seconds)),
            "parameters": ("a whole number", _whole(self.parameters, 0)),
            "learning_rate": ("a number, or null", self.learning_rate is None or _number(self.learning_rate)),
        }
        for name, (what, fits) in checks.items():
            if not fits:
                raise InputError(f"{name} must be {what}, not {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any, source: str | Path) -> Result:
        """The inverse of `to_dict`; raises `InputError` naming `source`, the file that `value` was read from."""
        if not isinstance(value, dict):
            raise InputError(f"{source} does not hold a result: a JSON object was expected")
        known = [f.name for f in fields(cls)]
        for name in value:
            if name not in known:
                raise InputError(f"{source}: a result has no field {name!r}{did_you_mean(name, known)}")
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in value]
        if missing:
            raise InputError(f"{source}: {', '.join(missing)} missing")
        try:
            return cls(**value)
        except InputError as e:
            raise InputError(f"{source}: {e}") from None


@dataclass(frozen=True)
class Results:
    """The finished cells of a comparison, in an order of their own: no two orders of `cells` differ.

    `methods` is the order to show methods in. Those it does not name follow by the alphabet, scratch last; those
    without a finished cell are left out. `resolution` is the step between two scores: 1 / examples scored, if known.
    Raises `InputError` where nothing is finished or a cell occurs twice.
    """

    cells: Sequence[Result]
    methods: Sequence[str] = ()
    resolution: float = 0.0
    sizes: tuple[int | None, ...] = field(init=False)
    _by_place: dict[tuple[str, int | None], dict[int, Result]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.cells:
            raise InputError("no cell of the comparison is finished: there is nothing to compare")
        wanted = {method: i for i, method in enumerate(self.methods)}
        methods = sorted(
            {cell.method for cell in self.cells}, key=lambda m: (wanted.get(m, len(wanted)), is_scratch(m), m)
        )
        rank = {method: i for i, method in enumerate(methods)}
        cells = sorted(self.cells, key=lambda cell: (rank[cell.method], _ascending(cell.shots), cell.seed))
        places: dict[tuple[str, int | None], dict[int, Result]] = {}
        for cell in cells:
            seeds = places.setdefault((cell.method, cell.shots), {})
            if cell.seed in seeds:
                size = "all labels" if cell.shots is None else f"{cell.shots} shots"
                raise InputError(f"{cell.method} on {size} with seed {cell.seed} has two results: keep one")
            seeds[cell.seed] = cell
        object.__setattr__(self, "cells", tuple(cells))
        object.__setattr__(self, "methods", tuple(methods))
        object.__setattr__(self, "sizes", tuple(sorted({cell.shots for cell in cells}, key=_ascending)))
        object.__setattr__(self, "_by_place", places)

    @property
    def scratch(self) -> str | None:
        """The method that transfers nothing, if it was run."""
        return next((method for method in self.methods if is_scratch(method)), None)

    @property
    def transfers(self) -> tuple[str, ...]:
        """The methods that start from pre-trained weights."""
        return tuple(method for method in self.methods if not is_scratch(method))

    def of(self, method: str, size: int | None) -> tuple[Result, ...]:
        """The cells of one method and size, by ascending seed; none where none is finished."""
        return tuple(self._by_place.get((method, size), {}).values())

    def scores(self, method: str, size: int | None) -> dict[int, float]:
        """`{seed: score}` of one method and size, by ascending seed."""
        return {cell.seed: cell.score for cell in self.of(method, size)}

    def examples(self, size: int | None) -> float:
        """Training examples at a size: the mean over the seeds, each counted once."""
        return fmean({cell.seed: cell.examples for cell in self.cells if cell.shots == size}.values())

    def labels(self, size: int | None, classes: int) -> float:
        """Labels per class at a size: training examples over the number of classes, the mean over seeds.

        Below the size itself where a class has fewer examples than that.
        """
        return self.examples(size) / classes


def is_scratch(method: str) -> bool:
    """Whether the method starts from random weights."""
    return method.partition(":")[0] == SCRATCH


def _ascending(size: int | None) -> float:
    return math.inf if size is None else size


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
