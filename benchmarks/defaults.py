"""Whether the defaults are good ones: the default method without a flag against the best of four, each at its own rate.

    make defaults                              hours; docs/defaults.md says how many
    python benchmarks/defaults.py banking77    one data set alone: messages, sst2 or banking77

prints docs/defaults.md and, of all data sets, writes it. Stopped and called again, it goes on. Data sets can be run
side by side first, a core for each. SST-2 and Banking77 are read under TL_JAX_DATA (default ../shared/data).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from best_rates import METHODS, Desk, Row

from tl_jax.analysis.cells import Cell
from tl_jax.experiment import Experiment
from tl_jax.training import defaults
from tl_jax.training.interrupt import Interrupt
from tl_jax.training.loop import Interrupted

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

import model as minilm  # noqa: E402  the weights that the demo fetches

PAGE = ROOT / "docs" / "defaults.md"
BUDGETS = ((0.5, 1.0), (2.0, 1.0), (2.0, 0.5), (0.5, 2.0))  # of the default steps and batch size

HEAD = """# Defaults

What a run uses where you say nothing, and what that is worth. This page is written by

    make defaults

Stopped and called again, it goes on. What is here ran side by side first, a core for each:
`taskset -c 0 .venv/bin/python benchmarks/defaults.py sst2`, and with `-c 1` `banking77` and `messages`. Something else
computed beside the last runs of Banking77: the seconds of `lora` at 16 labels a class and of the default at 13 are up
to twice too high.

"""
MEASURED = """
## Measured

all-MiniLM-L6-v2 (22.6 million parameters), seeds 0, 1, 2; score ± standard error of the mean over the seeds. `probe`,
`full`, `lp_ft` and `lora` each have the best of 0.4, 1 and 2.5 times their default rate, chosen on validation with seed
0; the last line is a run without any flag. Validation is the data set's own split or a tenth of its training examples,
as in `tl-jax compare`. Seconds are of one run, evaluations too, on one CPU core. For models of 50 million parameters
and more nothing has been measured yet: theirs are the customary rates."""


@dataclass(frozen=True)
class Data:
    """A data set at 16 labels a class and at about 1,000 labels (None: all, where there are fewer)."""

    title: str
    files: dict[str, str]
    shots: tuple[int | None, ...]
    budgets_at: int | None = 0  # the size whose budget is varied; 0: none

    def at(self, shots: int | None) -> str:
        """The data set and a size, in words."""
        return f"{self.title}, all labels" if shots is None else f"{self.title}, {shots} labels a class"


def sets() -> dict[str, Data]:
    """The data sets by name. Exits where those that are not shipped are missing."""
    folder = ROOT / os.environ.get("TL_JAX_DATA", "../shared/data")
    messages, sst2, banking = ROOT / "demo" / "messages", folder / "t_sst2", folder / "t_banking77"
    for path in (sst2, banking):
        if not path.is_dir():
            sys.exit(f"error: {path} is missing; TL_JAX_DATA names the folder that holds t_sst2 and t_banking77")
    shipped = {"data": str(messages / "train.csv"), "eval_data": str(messages / "test.csv")}
    return {
        "messages": Data("The demo's support messages", shipped, (16, None)),
        "sst2": Data("SST-2", {"data": str(sst2)}, (16, 500), budgets_at=500),
        "banking77": Data("Banking77", {"data": str(banking)}, (16, 13)),  # 1,232 and 1,001 labels
    }


def chosen(method: str) -> list[str]:
    """The defaults themselves, in words and as a table; `method` is the one that is used where none is named."""
    asked = Experiment()
    rows = [("method", "rate below 50 million parameters", "rate from there on", "schedule")]
    for name, (small, other) in defaults.RATES.items():
        rows.append((f"`{name}`", f"{small:g}", f"{other:g}", defaults.default_schedule(name)))
    return [
        f"- Method: `{method}`. Batch size: {asked.batch_size}. Optimiser: {asked.optimizer}.",
        f"- Budget: {defaults.EPOCHS:g} epochs, or on small data as many as make {defaults.STEPS} steps, "
        f"but no more than {defaults.MOST_EPOCHS:g}.",
        "- Peak learning rate by method; `probe` has none, for its head is solved.",
        "",
        *_markdown(rows),
    ]


def against_the_best(desk: Desk, data: Data, shots: int | None, methods: Sequence[Row]) -> list[str]:
    """A line for each of `methods` at its own best rate, and for the default without a flag; how far it is behind."""
    default = desk.at_default(desk.default, shots, f"**`{desk.default}`, no flag**")
    rows = [("method", "validation at 0.4, 1, 2.5 × its rate", "rate", "score", "seconds")]
    for row in (*methods, default):
        tried = " ".join(f"{100 * score:.1f}" for score in row.tried)
        rows.append((row.name, tried, "" if row.rate is None else f"{row.rate:g}", _score(row), f"{row.seconds:.0f}"))
    best = max(methods, key=lambda row: row.mean)
    lack = best.mean - default.mean
    verdict = "within one standard error" if lack <= best.error else "**more than one standard error**"
    points = f"{abs(100 * lack):.1f} points"
    beside = "as good as" if points == "0.0 points" else f"{points} {'behind' if lack > 0 else 'above'}"
    steps, batch = desk.steps(shots)
    examples, _ = desk.bench.chosen(shots, 0)
    return [
        "",
        f"### {data.at(shots)}",
        "",
        f"{len(examples):,} examples of {len(desk.bench.task.labels)} classes, {steps} steps of {batch}.",
        "",
        *_markdown(rows),
        "",
        f"The default is {beside} the best of the four, {best.name}{f': {verdict}' if lack > 0 else ''}.",
    ]


def other_budgets(desk: Desk, open_again: Callable[..., Desk], data: Data, shots: int | None) -> list[str]:
    """A line for each budget of the default method at its default rate."""
    steps, batch = desk.steps(shots)
    rows = [desk.at_default(desk.default, shots, f"{steps} steps of {batch}, the default")]
    for more, larger in BUDGETS:
        budget = {"steps": int(more * steps), "batch_size": int(larger * batch)}
        name = f"{budget['steps']} steps of {budget['batch_size']}"
        rows.append(open_again(**budget).at_default(desk.default, shots, name))
    table = [("budget", "score", "seconds"), *((row.name, _score(row), f"{row.seconds:.0f}") for row in rows)]
    return ["", f"### {data.at(shots)}: other budgets of `{desk.default}`", "", *_markdown(table)]


def chosen_rates(settings: Sequence[Sequence[Row]]) -> list[str]:
    """Which rates the methods chose, over all settings, beside their defaults; which of these are always too low."""
    rows = [("method", "default rate", "chosen, in the order of the tables")]
    told: list[str] = []
    for method, found in zip(METHODS, zip(*settings, strict=True), strict=True):
        if not (rates := [row.rate for row in found if row.rate is not None]):
            continue  # `probe` has none
        usual = defaults.RATES[method][0]
        rows.append((f"`{method}`", f"{usual:g}", ", ".join(f"{rate:g}" for rate in rates)))
        if (least := min(rates)) > usual:
            told += ["", f"`{method}` chose more than its default every time: with such a model try `--lr {least:g}`."]
    return ["", "### Rates", "", *_markdown(rows), *told]


def _score(row: Row) -> str:
    return f"{100 * row.mean:.1f} ± {100 * row.error:.1f}"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    header, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [header, "|" + "---|" * len(rows[0]), *body]


def main(names: Sequence[str]) -> None:
    """Run the cells that are not finished; print the page, and write it if it is whole."""
    known = sets()
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"error: {unknown[0]!r} is none of {', '.join(known)}")
    page: list[str] = []
    settings: list[list[Row]] = []
    seconds: dict[tuple[str, Cell], float] = {}
    with Interrupt() as interrupt:
        try:
            for name in names or known:
                data = known[name]

                def opened(name: str = name, data: Data = data, **budget: int) -> Desk:
                    model = str(minilm.folder())
                    given = (name, model, data.files, data.shots, lambda: interrupt.requested)
                    return Desk.open(seconds, *given, **budget)

                desk = opened()
                page = page or [*chosen(desk.default), MEASURED]
                for shots in data.shots:
                    settings.append([desk.at_its_best(method, shots) for method in METHODS])
                    page += against_the_best(desk, data, shots, settings[-1])
                    if shots == data.budgets_at:
                        page += other_budgets(desk, opened, data, shots)
        except Interrupted as e:
            sys.exit(f"{e}; call it again to go on")
    hours = sum(seconds.values()) / 3600
    page += [*chosen_rates(settings), "", f"The {len(seconds)} runs behind this took {hours:.1f} hours together."]
    text = HEAD + "\n".join(page) + "\n"
    print(text)
    if not names:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
