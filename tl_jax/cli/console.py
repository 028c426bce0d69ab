"""What commands share on the terminal: results go to standard output, everything said on the way to standard error."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tl_jax.errors import InputError

# Whose warnings are about themselves, not about what the user asked for.
PLATFORM = r"(absl|etils|flax|huggingface_hub|jax|jaxlib|optax|orbax|tensorstore)(\.|$)"


def quiet_platform() -> None:
    """Silences what the platform logs below an error. It works only before jax is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ side: errors only
    logging.getLogger("jax").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=PLATFORM)


def say(text: str) -> None:
    """Prints a line on standard error, at once."""
    print(text, file=sys.stderr, flush=True)


def goes_on(switches: Mapping[str, Any]) -> str:
    """How a command that was stopped goes on; `switches` are those it was given."""
    instead = " in place of --overwrite" if "overwrite" in switches else ""
    return f"the same command with --resume{instead} goes on"


@contextmanager
def writing(folder: str) -> Iterator[None]:
    """What the disk refuses while `folder` is written is the user's to mend; raises `InputError`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"{folder} was not written: {error}") from None


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows in columns: numbers to the right with four digits after the point, words to the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text, _ in column) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            text.rjust(width) if right else text.ljust(width) for (text, right), width in zip(row, widths, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def scores(metrics: Mapping[str, Any]) -> str:
    """Metrics as a table: single figures first, then figures by class, one row each; longer ones are left to JSON."""
    single = [(name, value) for name, value in metrics.items() if isinstance(value, str | int | float)]
    parts = [table(single)] if single else []
    for name, rows in metrics.items():
        if isinstance(rows, Mapping) and all(isinstance(row, Mapping) for row in rows.values()):
            columns = list(dict.fromkeys(column for row in rows.values() for column in row))
            body = [(label, *(row.get(column, "") for column in columns)) for label, row in rows.items()]
            parts.append(table([(name, *columns), *body]))
    return "\n\n".join(parts)


def _cell(value: object) -> tuple[str, bool]:
    """The text of a value, and whether it stands to the right."""
    if isinstance(value, float):
        return f"{value:.4f}", True
    return str(value), isinstance(value, int)
