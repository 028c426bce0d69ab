"""The picture of a comparison: score over labels a class, a line for each method, with its intervals.

Drawn with matplotlib's objects alone: no pyplot, no window, nothing left behind in the process.
"""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tl_jax.analysis.intervals import Interval, interval
from tl_jax.analysis.results import Results, is_scratch
from tl_jax.analysis.words import number, seeds_words, size_words
from tl_jax.manifest import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito, "Color universal design" (2008), but for black and yellow: told apart by every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v")  # one fewer than colours: the thirty pairs all differ
GREY = "#767676"  # scratch: the ground that the others stand on
INK, FAINT = "#222222", "#E4E4E4"
WIDTH, HEIGHT, DPI = 6.4, 4.2, 160  # of the axes with their numbers, in inches; what is written beside them adds to it
LINE = 0.062  # what a line of text takes of the axes' height


class _Style(NamedTuple):
    colour: str
    marker: str
    dashes: str


def curve(results: Results, path: Path, *, title: str, classes: int) -> None:
    """Write the PNG `path`, whole or not at all: the mean over seeds in %, over labels a class on a logarithmic axis.

    Bars are 95 % intervals (Student's t over seeds), cut at 0 and 100 %; a single seed has none. Where every size has
    the same number of labels, the methods stand below each other and the score runs to the right. Equal results give
    equal bytes on one machine. Raises `InputError` if the disk refuses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.14, 0.84, 0.7), facecolor="white")
    places = {size: results.labels(size, classes) for size in results.sizes}
    if len(set(places.values())) > 1:
        _lines(axes, results, places)
    else:
        _dots(axes, results, classes)
    _head(axes, title, _subtitle(results))
    image = io.BytesIO()
    figure.savefig(image, format="png", bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})
    write_bytes(path, image.getvalue())


def _lines(axes: Axes, results: Results, places: dict[int | None, float]) -> None:
    """A line for each method, named where it ends."""
    span = math.log(max(places.values()) / min(places.values()))
    ends: list[tuple[str, float, float, str]] = []
    styles = _styles(results)
    hair = span * min(0.007, 0.028 / len(styles))  # sets methods apart, so that bars at one size do not hide each other
    for i, (method, style) in enumerate(styles.items()):
        shift = math.exp(hair * (i - (len(styles) - 1) / 2))
        sizes = sorted((size for size in results.sizes if results.of(method, size)), key=lambda size: places[size])
        measured = [interval([*results.scores(method, size).values()]) for size in sizes]
        x = [places[size] * shift for size in sizes]
        y = [100 * m.mean for m in measured]
        axes.errorbar(x, y, yerr=_bars(measured), **_drawn(style, line=True))
        ends.append((method, x[-1], y[-1], style.colour))
    axes.set_xscale("log")
    _x_ticks(axes, places)
    low, high = min(places.values()), max(places.values())
    axes.set_xlim(low * math.exp(-0.035 * span), high * math.exp(0.035 * span))
    axes.set_xlabel("labels a class (logarithmic)", color=INK, labelpad=2)
    _score_axis(axes, "y", results)
    _end_labels(axes, ends)


def _x_ticks(axes: Axes, places: dict[int | None, float]) -> None:
    """The labels a class that were measured, and which of them is all; too close to the last, a line lower."""
    from matplotlib.ticker import FixedLocator, NullLocator

    ticks = sorted(set(places.values()))
    span = math.log(ticks[-1] / ticks[0])
    words: list[str] = []
    last, lower = -math.inf, False
    for tick in ticks:
        lower = not lower and math.log(tick) - last < 0.09 * span
        last = math.log(tick)
        is_all = None in places and tick == places[None]
        if lower:
            words.append(f"\n{number(tick)}" + (" = all" if is_all else ""))
        else:
            words.append(number(tick) + ("\nall" if is_all else "\n "))  # two lines each, or they stand at two heights
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(words)


def _end_labels(axes: Axes, ends: list[tuple[str, float, float, str]]) -> None:
    """Each line's name beside its end, moved up or down no further than needed to be read."""
    from scipy.optimize import isotonic_regression

    bottom, top = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end[2])
    wanted = [(end[2] - bottom) / (top - bottom) for end in ends]
    # Neighbours at least a line apart, at the least squared distance: an isotonic regression of what exceeds a line.
    spread = isotonic_regression([at - LINE * i for i, at in enumerate(wanted)]).x
    spread = spread.clip(0, max(0.0, 1.04 - LINE * (len(ends) - 1)))  # beside the axes, not beside the title
    for i, ((method, x, y, colour), rest) in enumerate(zip(ends, spread, strict=True)):
        axes.annotate(
            method,
            xy=(x, y),
            xytext=(1.035, float(rest) + LINE * i),
            textcoords="axes fraction",
            annotation_clip=False,
            va="center",
            color=colour,
            fontsize=10.5,
            fontweight="bold",
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "alpha": 0.5,
                "linewidth": 1.0,
                "linestyle": ":",
                "relpos": (0, 0.5),  # from the middle of the name's left side
                "shrinkA": 2,
                "shrinkB": 5,
            },
        )


def _dots(axes: Axes, results: Results, classes: int) -> None:
    """A row for each method and size, the first on top."""
    rows: list[str] = []
    for method, style in _styles(results).items():
        for size in results.sizes:
            if scores := results.scores(method, size):
                measured = interval([*scores.values()])
                axes.errorbar([100 * measured.mean], [len(rows)], xerr=_bars([measured]), **_drawn(style, line=False))
                rows.append(method if len(results.sizes) == 1 else f"{method}, {size or 'all'}")
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    box = axes.get_position()
    height = min(box.height, 0.13 * len(rows))
    axes.set_position((box.x0, box.y1 - height, box.width, height))
    _score_axis(axes, "x", results)
    axes.set_xlabel(f"score {size_words(results, results.sizes[-1], classes)}, %", color=INK, labelpad=6)


def _score_axis(axes: Axes, which: str, results: Results) -> None:
    """The score's axis covers what was measured, inside 0 to 100 %; a light grid to read it by."""
    measured = [interval([*s.values()]) for m in results.methods for z in results.sizes if (s := results.scores(m, z))]
    low = min(100 * max(0.0, m.mean if m.low is None else m.low) for m in measured)
    high = max(100 * min(1.0, m.mean if m.high is None else m.high) for m in measured)
    room = max(0.05 * (high - low), 0.5)
    limits = (max(low - room, -1.0), min(high + room, 101.0))
    axes.set_xlim(limits) if which == "x" else axes.set_ylim(limits)
    axes.grid(axis="x" if which == "x" else "y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left" if which == "y" else "bottom"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color("#9A9A9A")
    axes.tick_params(length=0, colors=INK, labelsize=10)


def _head(axes: Axes, title: str, subtitle: str) -> None:
    """Title and how to read the bars, flush with the left end of the axes."""
    place: dict[str, Any] = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    axes.annotate(
        textwrap.fill(title, 56), xytext=(0, 28), fontsize=13, fontweight="bold", color=INK, parse_math=False, **place
    )
    axes.annotate(subtitle, xytext=(0, 11), fontsize=10, color="#5A5A5A", **place)


def _subtitle(results: Results) -> str:
    counts = [n for method in results.methods for size in results.sizes if (n := len(results.of(method, size)))]
    low, high = min(counts), max(counts)
    if high == 1:
        return "score in %; one seed, hence no interval"
    seeds = seeds_words(high) if low == high else f"{low} to {seeds_words(high)}"
    return f"score in %; mean of {seeds}, bars: 95 % interval"


def _styles(results: Results) -> dict[str, _Style]:
    """A colour and a marker for each method; scratch is grey and dashed whatever it is compared with."""
    styles = {
        method: _Style(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], "-")
        for i, method in enumerate(results.transfers)
    }
    return {m: _Style(GREY, "o", "--") if is_scratch(m) else styles[m] for m in results.methods}


def _bars(measured: list[Interval]) -> list[list[float]]:
    """What an interval reaches below and above its mean, in %, inside 0 to 100; NaN draws no bar where none is."""
    below = [math.nan if m.low is None else 100 * (m.mean - max(m.low, 0.0)) for m in measured]
    above = [math.nan if m.high is None else 100 * (min(m.high, 1.0) - m.mean) for m in measured]
    return [below, above]


def _drawn(style: _Style, *, line: bool) -> dict[str, Any]:
    return {
        "color": style.colour,
        "marker": style.marker,
        "linestyle": style.dashes if line else "none",
        "linewidth": 1.8,
        "markersize": 6.0,
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
        "elinewidth": 1.3,
        "capsize": 3.0,
        "capthick": 1.3,
    }
