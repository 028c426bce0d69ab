"""What people read while a run trains, and what machines read after it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_jax.errors import InputError
from tl_jax.training.events import Events, JsonLines, Progress, Sink

ROOT = Path(__file__).resolve().parents[2]
STEP: dict[str, Any] = {
    "epoch": 0.5,
    "loss": 0.61234,
    "learning_rate": 2e-5,
    "grad_norm": 1.5,
    "examples": 64,
    "padding": 0.141,
    "seconds": 0.5,
    "waited": 0.01,
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "time"} for line in lines(path)]


def train(log: Sink, first: int, last: int, speed: float = 1.0) -> None:
    """What a loop would tell of the steps `first` to `last`."""
    for step in range(first, last + 1):
        log.step(**STEP | {"step": step, "loss": 1 / step, "seconds": speed, "waited": speed / 9})
        if step % 4 == 0:
            log.evaluated(step=step, epoch=step / 4, metrics={"accuracy": 1 - 1 / step}, best=True)


class Terminal(io.StringIO):
    """A terminal: what it shows after carriage returns."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        shown = []
        for line in self.getvalue().split("\n"):
            cells: list[str] = []
            for piece in line.split("\r"):
                cells[: len(piece)] = piece
            shown.append("".join(cells).rstrip())
        return shown


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_a_step_with_all_figures() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, clock=clock)
    progress.started(total=650, resumed=0)
    progress.step(step=1, **STEP)
    clock.now = 10.0
    progress.step(step=11, **STEP)
    assert out.getvalue().splitlines() == [
        "training 650 steps",
        "step 1/650  epoch 0.50  loss 0.6123  lr 2.0e-05  128 examples/s  padding 14%  data wait 2%",
        "step 11/650  epoch 0.50  loss 0.6123  lr 2.0e-05  128 examples/s  padding 14%  data wait 2%  eta 10:39",
    ]


@pytest.mark.parametrize(("per_step", "eta"), [(0.1, "1:04"), (1, "10:39"), (100, "17:45:00")])
def test_the_time_left_is_at_the_pace_of_the_steps(per_step: float, eta: str) -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, clock=clock)
    progress.started(total=650, resumed=1)
    clock.now = 777.0  # compiling is over by the first line
    progress.step(step=1, **STEP)
    clock.now += 10 * per_step
    progress.step(step=11, **STEP)
    assert out.getvalue().endswith(f"eta {eta}\n")


def test_a_terminal_shows_one_line_that_overwrites_itself(terminal: Terminal) -> None:
    progress = Progress(terminal)
    progress.compiling(1, 4, (32, 16))
    assert terminal.screen() == ["compiling 1 of 4 shapes (32 × 16)"]
    progress.step(step=100, **STEP)
    progress.step(step=7, **STEP | {"loss": 9.0})
    assert len(terminal.screen()) == 1 and terminal.screen()[0].startswith("step 7  epoch 0.50  loss 9.0000  lr")
    progress.message("a message\nof two lines")
    assert terminal.screen()[:2] == ["a message", "of two lines"]
    assert terminal.screen()[2].startswith("step 7  ") and len(terminal.screen()) == 3
    progress.finished(step=7, seconds=65.2)
    progress.close()
    assert terminal.screen()[2].startswith("step 7  ") and terminal.screen()[3:] == ["7 steps in 1:05", ""]


def test_a_line_never_wraps(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Progress(terminal).step(step=1, **STEP)
    assert terminal.screen() == ["step 1  epoch 0.50  loss 0.6123  lr 2.0"]


@given(st.lists(st.tuples(st.booleans(), st.text("ab c", min_size=1, max_size=30)), max_size=12))
def test_no_message_is_lost_and_the_progress_stays_last(said: list[tuple[bool, str]]) -> None:
    terminal = Terminal()
    progress = Progress(terminal, terminal=True)
    shown = ""
    for is_message, text in said:
        if is_message:
            progress.message(text)
        else:
            progress._show(shown := text)
    assert terminal.screen() == [text.rstrip() for is_message, text in said if is_message] + [shown.rstrip()]


def test_a_dumb_terminal_a_notebook_and_a_closed_stream_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    Progress(terminal).compiling(1, 1, (8, 4))
    assert terminal.getvalue() == "compiling 1 of 1 shapes (8 × 4)\n"

    class Notebook:  # has neither isatty nor an encoding
        text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    notebook = Notebook()
    Progress(notebook).message("hello")  # type: ignore[arg-type]
    assert notebook.text == "hello\n"
    closed = io.StringIO()
    closed.close()
    Progress(closed).message("unheard")


def test_what_the_stream_cannot_write_is_replaced() -> None:
    raw = io.BytesIO()
    progress = Progress(io.TextIOWrapper(raw, encoding="ascii"))
    progress.compiling(1, 2, (3, 4))
    progress.message("label 名")
    assert raw.getvalue() == b"compiling 1 of 2 shapes (3 ? 4)\nlabel ?\n"


def test_evaluation_shows_single_figures_only() -> None:
    out = io.StringIO()
    metrics = {"accuracy": np.float64(0.875), "macro_f1": 0.5, "labels": {"a": {"f1": 1.0}}, "examples": 8}
    Progress(out).evaluated(step=8, epoch=1.0, metrics=metrics, best=True)
    Progress(out).evaluated(step=9, epoch=1.0, metrics={"loss": 2.0}, best=False)
    assert out.getvalue().splitlines() == [
        "step 8  validation  accuracy 0.8750  macro_f1 0.5000  (best so far)",
        "step 9  validation  loss 2.0000",
    ]


ALONE = """
import sys
from tl_jax.training.events import Progress

sys.stdin.readline()
progress = Progress(sys.stderr)
for _ in range(3):
    progress.message("unheard")
print("trained")
"""


def test_training_goes_on_when_the_reader_of_the_progress_has_gone() -> None:
    """A real process whose standard error is a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", ALONE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
        cwd=ROOT,
    )
    os.close(reader)
    os.close(writer)
    assert process.communicate("go\n") == ("trained\n", None) and process.returncode == 0


def test_lines_are_on_the_file_at_once_and_time_stands_apart(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = JsonLines(path)
    log.started(total=8, resumed=0)
    log.step(step=4, **STEP)
    log.evaluated(step=4, epoch=1.0, metrics={"accuracy": np.float32(0.5), "classes": {"a": [1, 2]}}, best=False)
    log.message("not for machines")
    log.compiling(1, 4, (8, 8))
    assert lines(path) == [
        {
            "event": "step",
            "step": 4,
            "epoch": 0.5,
            "loss": 0.61234,
            "learning_rate": 2e-05,
            "grad_norm": 1.5,
            "padding": 0.141,
            "examples": 64,
            "time": {"seconds": 0.5, "waited": 0.01, "examples_per_second": 128.0},
        },
        {
            "event": "evaluated",
            "step": 4,
            "epoch": 1.0,
            "metrics": {"accuracy": 0.5, "classes": {"a": [1, 2]}},
            "best": False,
        },
    ]
    log.close()


def test_every_line_is_strict_json(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "m.jsonl")
    metrics = {
        "nan": float("nan"),
        "inf": np.array([np.inf, 1.0]),
        "scalar": np.float32("-inf"),
        "bf16": ml_dtypes.bfloat16(0.5),
        "text": "名\n\ud800",
        3: True,
    }
    log.evaluated(step=1, epoch=1.0, metrics=metrics, best=False)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    (line,) = (tmp_path / "m.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line, parse_constant=refuse)["metrics"] == {
        "nan": None,
        "inf": [None, 1.0],
        "scalar": None,
        "bf16": 0.5,
        "text": "名\n?",
        "3": True,
    }


@given(killed=st.integers(1, 12), saved=st.integers(0, 12), torn=st.integers(0, 200))
def test_killed_and_resumed_has_each_step_once(
    killed: int, saved: int, torn: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed after `killed` steps and in the middle of a line, resumed from `saved`: as if it had never been."""
    folder = tmp_path_factory.mktemp("log")
    saved = min(saved, killed)
    whole, broken = folder / "whole.jsonl", folder / "broken.jsonl"
    for path in (whole, broken):
        log = JsonLines(path)
        log.started(total=12, resumed=0)
        train(log, 1, 12 if path == whole else killed, speed=2.0)
        log.close()
    keep = broken.read_bytes()
    last = keep.splitlines(keepends=True)[-1]
    broken.write_bytes(keep + last[: min(torn, len(last) - 1)])
    log = JsonLines(broken)
    log.started(total=12, resumed=saved)
    train(log, saved + 1, 12)
    log.close()
    assert untimed(broken) == untimed(whole)
    assert sorted(os.listdir(folder)) == ["broken.jsonl", "whole.jsonl"]


def test_lines_that_are_not_ours_do_not_survive_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"event": "step", "step": 1}\n[1]\n{"step": "x"}\nrubbish\n\xff\n{"event": "step", "step": 3}\n')
    JsonLines(path).started(total=9, resumed=2)
    assert lines(path) == [{"event": "step", "step": 1}]


def test_a_file_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"could not write .*none/m.jsonl: No such file or directory"):
        JsonLines(tmp_path / "none" / "m.jsonl")


FULL = """
import resource, sys
from tests.training.test_events import train
from tl_jax.errors import InputError
from tl_jax.training.events import JsonLines

log = JsonLines(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    train(log, 1, 20)
except InputError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
again = JsonLines(sys.argv[1])
again.started(total=20, resumed=2)
train(again, 3, 20)
"""


def test_a_full_disk_is_said_and_the_file_can_be_gone_on_with(tmp_path: Path) -> None:
    full, whole = tmp_path / "full.jsonl", tmp_path / "whole.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(full)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (f"could not write {full}: File too large\n", "")
    train(JsonLines(whole), 1, 20)
    assert untimed(full) == untimed(whole)


class Recorder(Sink):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def message(self, text: str) -> None:
        self.told.append(text)

    def compiling(self, *args: Any) -> None:
        self.told.append(args)

    def close(self) -> None:
        self.told.append("closed")


def test_events_reach_every_sink_until_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = Recorder(), Recorder()
    with Events(one, other) as events:
        events.message("before there is a file")
        events.log_to(tmp_path / "metrics.jsonl")
        events.started(total=2, resumed=0)
        events.compiling(1, 4, (8, 16))
        events.step(step=1, **STEP)
        events.evaluated(step=1, epoch=1.0, metrics={"loss": 0.5}, best=True)
        events.finished(step=1, seconds=3.0)
    assert one.told == other.told == ["before there is a file", (1, 4, (8, 16)), "closed"]
    assert [line["event"] for line in lines(tmp_path / "metrics.jsonl")] == ["step", "evaluated"]
    out, err = capsys.readouterr()
    assert out == "" and [line.split("  ")[0] for line in err.splitlines()] == [
        "before there is a file",
        "training 2 steps",
        "compiling 1 of 4 shapes (8 × 16)",
        "step 1/2",
        "step 1",
        "1 steps in 0:03",
    ]


def test_quiet_leaves_the_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Events(quiet=True) as events:
        events.log_to(tmp_path / "m.jsonl")
        events.message("unheard")
        train(events, 1, 4)
    assert capsys.readouterr() == ("", "") and len(lines(tmp_path / "m.jsonl")) == 5


def test_sinks_are_closed_when_training_fails() -> None:
    sink = Recorder()
    with pytest.raises(RuntimeError), Events(sink, quiet=True):
        raise RuntimeError
    assert sink.told == ["closed"]


def test_events_need_no_jax() -> None:
    code = "import sys, tl_jax.training.events; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
