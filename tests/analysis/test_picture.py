from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.cells import CLASSES, cell, grid
from tl_jax.analysis.picture import COLOURS, MARKERS, curve
from tl_jax.analysis.results import Results
from tl_jax.errors import InputError

FULL = {8: [0.50, 0.52, 0.54], 16: [0.6, 0.62, 0.64], None: [0.7, 0.7, 0.7]}
SCRATCH = {8: [0.2, 0.22, 0.24], 16: [0.3, 0.3, 0.36], None: [0.6, 0.6, 0.63]}


def figure_of(results: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, title: str = "A title") -> Any:
    """The figure that `curve` saves."""
    from matplotlib.figure import Figure

    kept: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        kept.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    curve(results, tmp_path / "curve.png", title=title, classes=CLASSES)
    (figure,) = kept
    return figure


def lines(axes: Any) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """`{(colour, marker): points}` of the lines that are drawn, without the bars' caps."""
    return {
        (bars[0].get_color(), bars[0].get_marker()): [*zip(bars[0].get_xdata(), bars[0].get_ydata(), strict=True)]
        for bars in axes.containers
    }


def names(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_a_png_is_written(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    curve(grid({"full": FULL, "scratch": SCRATCH}), path, title="Demo", classes=CLASSES)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert 800 <= width <= 1600 and 500 <= height <= 1000
    assert os.listdir(tmp_path) == ["curve.png"]


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    results = grid({"full": FULL, "scratch": SCRATCH})
    for name, cells in (("a.png", results.cells), ("b.png", results.cells[::-1])):
        curve(Results(cells), tmp_path / name, title="Demo", classes=CLASSES)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    curve(grid({"full": FULL, "scratch": FULL}), tmp_path / "c.png", title="Demo", classes=CLASSES)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_a_line_is_the_means_over_labels_a_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (axes,) = figure_of(grid({"full": FULL, "scratch": SCRATCH}), monkeypatch, tmp_path).axes
    drawn = lines(axes)
    assert axes.get_xscale() == "log"
    assert [y for _, y in drawn[COLOURS[0], MARKERS[0]]] == pytest.approx([52, 62, 70])
    assert [y for _, y in drawn["#767676", "o"]] == pytest.approx([22, 32, 61])
    for points in drawn.values():
        assert [x for x, _ in points] == pytest.approx([8, 16, 36], rel=0.01)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8\n ", "16\n ", "36\nall"]
    assert names(axes) == ["scratch", "full", "A title", "score in %; mean of 3 seeds, bars: 95 % interval"]


def test_bars_are_the_intervals_inside_0_to_100(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = grid({"full": {8: [0.9, 1.0], 16: [0.5, 0.52, 0.54], None: [0.0, 0.1]}})
    (axes,) = figure_of(results, monkeypatch, tmp_path).axes
    (bars,) = axes.containers[0][2]
    (low, high), (low_16, high_16), (low_all, high_all) = (
        sorted(y for _, y in segment) for segment in bars.get_segments()
    )
    assert (low, high) == pytest.approx((95 - 12.7062 * 5, 100), abs=0.01)
    assert (low_16, high_16) == pytest.approx((52 - 4.3027 * 2 / 3**0.5, 52 + 4.3027 * 2 / 3**0.5), abs=0.01)
    assert (low_all, high_all) == pytest.approx((0, 5 + 12.7062 * 5), abs=0.01)
    assert axes.get_ylim() == (-1, 101)
    assert names(axes)[-1] == "score in %; mean of 2 to 3 seeds, bars: 95 % interval"


def test_one_seed_has_no_bars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (axes,) = figure_of(grid({"full": {8: [0.5], 16: [0.6]}}), monkeypatch, tmp_path).axes
    assert not [s for s in axes.containers[0][2][0].get_segments() if len(s) and s[0][1] == s[0][1]]
    assert names(axes)[-1] == "score in %; one seed, hence no interval"


def test_one_size_is_a_dot_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (axes,) = figure_of(grid({"full": {8: FULL[8]}, "scratch": {8: SCRATCH[8]}}), monkeypatch, tmp_path).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["full", "scratch"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert [x for points in lines(axes).values() for x, _ in points] == pytest.approx([52, 22])
    assert axes.get_xlabel() == "score at 8 labels a class, %"
    assert axes.get_xscale() == "linear"


def test_sizes_of_equally_many_labels_are_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = Results([cell("full", 64, examples=252), cell("full", None, examples=252)])
    (axes,) = figure_of(results, monkeypatch, tmp_path).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["full, 64", "full, all"]


def test_neighbouring_ticks_stand_on_two_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = grid({"full": {4: [0.5], 32: [0.6], None: [0.7]}})
    (axes,) = figure_of(results, monkeypatch, tmp_path).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4\n ", "32\n ", "\n36 = all"]


def test_names_do_not_overlap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Six methods that end in the same place, one that ends early, dollars that would be a mistake in mathematics."""
    from matplotlib.text import Text

    methods = [f"lora:rank={2**i}" for i in range(6)]
    results = grid({m: {8: [0.5], 16: [0.6]} for m in methods} | {"full": {8: [0.3]}})
    figure = figure_of(results, monkeypatch, tmp_path, title="paid in $_$ " + "and a very long name " * 5)
    (axes,) = figure.axes
    figure.canvas.draw()  # saving had moved all to cut the margins
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the thread that leads to the line
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(axes.bbox.y0 - 20 < box.y0 and box.y1 < axes.bbox.y1 + 35 for box in boxes[:7])
    assert names(axes)[7].count("\n") == 2
    assert sorted(names(axes)[:7]) == sorted([*methods, "full"])


def test_thirty_methods_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = grid({f"lora:rank={i}": {8: [0.01 * i], 16: [0.02 * i]} for i in range(1, 31)})
    (axes,) = figure_of(results, monkeypatch, tmp_path).axes
    assert len(lines(axes)) == 30


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curve.png"
    path.write_bytes(b"the one before")

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"cannot write .*curve.png: No space left on device"):
        curve(grid({"full": FULL}), path, title="Demo", classes=CLASSES)
    assert path.read_bytes() == b"the one before"
    assert os.listdir(tmp_path) == ["curve.png"]


HEAVY = {"jax", "jaxlib", "flax", "matplotlib", "scipy"}
MAKE = """
from pathlib import Path
from tl_jax.analysis import Result, Results, curve, json_table, sentences, text_table
cells = [Result(m, k, s, 0.5 + 0.01 * s, 7 * k, 1.0, 10) for m in ("full", "scratch") for k in (8, 16) for s in (0, 1)]
results = Results(cells)
"""
SAY = "text_table(results, classes=7); json_table(results, classes=7); sentences(results, classes=7)\n"
DRAW = "curve(results, Path(r'{}') / 'curve.png', title='Demo', classes=7)\n"


def loaded(code: str) -> set[str]:
    """The modules in a fresh Python after `code`, by their full names."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(process.stdout.splitlines()[-1]))


def test_what_each_part_loads(tmp_path: Path) -> None:
    """The room is light, the sentences need scipy, the picture matplotlib without pyplot, and nothing needs jax."""
    assert not loaded("import tl_jax.analysis") & (HEAVY | {"numpy"})
    assert not loaded(MAKE) & HEAVY
    assert loaded(MAKE + SAY) & HEAVY == {"scipy"}
    drawn = loaded(MAKE + DRAW.format(tmp_path))
    assert drawn & HEAVY == {"matplotlib", "scipy"}
    assert "matplotlib.pyplot" not in drawn
    assert (tmp_path / "curve.png").is_file()


def test_settings_of_matplotlib_are_left_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    curve(grid({"full": FULL}), tmp_path / "curve.png", title="Demo", classes=CLASSES)
    assert dict(matplotlib.rcParams) == before
