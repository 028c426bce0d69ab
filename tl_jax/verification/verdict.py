"""What came of verifying a model: a line for each stage, and the first that is off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tl_jax.tabular import columns

TOLERANCE = 1e-5  # the law of parity, in float32


@dataclass(frozen=True)
class Checked:
    """A stage, or the processor before them: what it writes, how far that is from what it should be (None: not
    compared), and how far it may be. `faults` are what is wrong with its parameters themselves.
    """

    name: str
    writes: str
    error: float | None = None
    bound: float = TOLERANCE
    faults: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is off."""
        return not self.faults and (self.error is None or self.error <= self.bound)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """max|a - b| / max|b|; infinite for arrays of other shapes."""
    if a.shape != b.shape:
        return float("inf")
    a, b = (np.asarray(array, np.float64) for array in (a, b))
    error = float(np.abs(a - b).max())
    return error and error / float(np.abs(b).max())


@dataclass(frozen=True)
class Verification:
    """What `verify` returns; `str()` is a table and a sentence.

    `against` is one of "reference", "golden" and "structure", `said` that in words. `certificate` is the file that was
    written, None where none was.
    """

    against: str
    said: str
    stages: tuple[Checked, ...]
    certificate: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def first_off(self) -> Checked | None:
        """The first stage that is not as it should be."""
        return next((stage for stage in self.stages if not stage.passed), None)

    @property
    def passed(self) -> bool:
        """Whether every stage is as it should be."""
        return self.first_off is None

    @property
    def failure(self) -> str:
        """What is off, in a sentence; "" where nothing is."""
        stage = self.first_off
        if stage is None:
            return ""
        reasons = list(stage.faults)
        if stage.error is not None and not stage.error <= stage.bound:
            reasons.append(
                f"what it writes, {stage.writes}, differs by {stage.error:.1e}, and {stage.bound:.1e} is allowed"
            )
        later = [other.name for other in self.stages if not other.passed and other is not stage]
        more = f" (off behind it: {', '.join(later)})" if later else ""
        return f"{stage.name} is the first stage that is off: {'; '.join(reasons)}{more}"

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("stage", "writes", "error", "allowed", "")]
        for stage in self.stages:
            figures = ("not compared", "") if stage.error is None else (f"{stage.error:.1e}", f"{stage.bound:.1e}")
            rows.append((stage.name, stage.writes, *figures, "" if stage.passed else "off"))
        written = [f"certificate: {self.certificate}"] if self.certificate else []
        return "\n".join([*columns(rows), "", *self.notes, self.said, *written])
