"""What the transfer bought you: methods compared over sizes and seeds, and what the numbers say.

One file, one idea. Running: `grid` is which cells there are, `cells` one fit in memory, `folder` what is kept of it,
`running` those not finished yet, `comparison` the composition, `tl_jax.compare`. Reading, without jax: `results` is
what each cell measured, `intervals` how far a mean over seeds can be trusted, `matching` how many labels of one method
are worth those of another, `words` how things are called, `verdict` the sentences, `table` the figures, `picture` the
curve; matplotlib is imported when it is drawn.

The names below are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_jax.analysis.intervals import Interval, interval, paired
    from tl_jax.analysis.matching import labels_to_match
    from tl_jax.analysis.picture import curve
    from tl_jax.analysis.results import Result, Results
    from tl_jax.analysis.table import json_table, text_table
    from tl_jax.analysis.verdict import sentences

_HOME = {
    "Result": "results",
    "Results": "results",
    "Interval": "intervals",
    "interval": "intervals",
    "paired": "intervals",
    "labels_to_match": "matching",
    "sentences": "verdict",
    "json_table": "table",
    "text_table": "table",
    "curve": "picture",
}
__all__ = [
    "Interval",
    "Result",
    "Results",
    "curve",
    "interval",
    "json_table",
    "labels_to_match",
    "paired",
    "sentences",
    "text_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
