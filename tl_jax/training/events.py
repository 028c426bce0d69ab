"""What happens in a run, told to whoever listens: a progress line for people, `metrics.jsonl` for machines.

The loop tells `Events`, which hands on to its sinks. A further sink (TensorBoard, a tracker) is one more subclass of
`Sink`. Nothing here imports jax, so the first line can appear before it is loaded.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tl_jax.errors import InputError


class Sink:
    """Listens to a run; every method may be left out."""

    def started(self, *, total: int, resumed: int) -> None:
        """Training begins: it goes on after step `resumed` (0 from the start) and ends after step `total`."""

    def compiling(self, index: int, count: int, shape: Sequence[int]) -> None:
        """The step for the `index`-th of at most `count` batch shapes is about to be compiled."""

    def step(
        self,
        *,
        step: int,
        epoch: float,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        examples: float,
        padding: float,
        seconds: float,
        waited: float,
    ) -> None:
        """A log line is due.

        Args:
            step: steps done.
            epoch: passes over the data done.
            loss: mean over the `examples` since the last line.
            learning_rate, grad_norm: of the last step.
            examples: how many since the last line.
            padding: share of the positions (of images, the rows) since the last line that are padding, 0 to 1.
            seconds, waited: since the last line; the part of it spent waiting for data.
        """

    def evaluated(self, *, step: int, epoch: float, metrics: Mapping[str, Any], best: bool) -> None:
        """The validation set was scored after `step` steps; `best` if no earlier score was better."""

    def message(self, text: str) -> None:
        """Something to read, of one or more lines."""

    def finished(self, *, step: int, seconds: float) -> None:
        """Training is over after `step` steps, of which this process spent `seconds`."""

    def close(self) -> None:
        """Nothing more will come."""


class Events(Sink):
    """Hands every event to all sinks, in order. A context manager that closes them.

        with Events() as events:
            events.log_to("runs/tickets/metrics.jsonl")

    Args:
        sinks: who listens beside the progress on standard error.
        quiet: leave that out.
    """

    def __init__(self, *sinks: Sink, quiet: bool = False) -> None:
        self.sinks = list(sinks) if quiet else [Progress(sys.stderr), *sinks]

    def log_to(self, path: str | os.PathLike[str]) -> None:
        """From here on also write to the JSON lines file `path`."""
        self.sinks.append(JsonLines(path))

    def started(self, **event: Any) -> None:
        self._tell("started", **event)

    def compiling(self, index: int, count: int, shape: Sequence[int]) -> None:
        self._tell("compiling", index, count, shape)

    def step(self, **event: Any) -> None:
        self._tell("step", **event)

    def evaluated(self, **event: Any) -> None:
        self._tell("evaluated", **event)

    def message(self, text: str) -> None:
        self._tell("message", text)

    def finished(self, **event: Any) -> None:
        self._tell("finished", **event)

    def close(self) -> None:
        self._tell("close")
        self.sinks.clear()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _tell(self, event: str, *args: Any, **kwargs: Any) -> None:
        for sink in self.sinks:
            getattr(sink, event)(*args, **kwargs)


class JsonLines(Sink):
    """One JSON object a line for every `step` and `evaluated` event, on the file at once.

        {"event": "step", "step": 40, "epoch": 0.5, "loss": 0.61, …, "time": {"seconds": 1.2, …}}
        {"event": "evaluated", "step": 80, "epoch": 1.0, "metrics": {"accuracy": 0.85, …}, "best": true}

    Everything that the clock decides stands under "time": without it the files of two equal runs are equal. Numbers
    that are not finite become null. `started` cuts the file back to what was there when the step that training goes on
    from had been done, so the file of a run that was killed and resumed has each step once.

    Raises InputError if the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._open(lambda line: True)

    def started(self, *, total: int, resumed: int) -> None:
        self._file.close()
        self._open(lambda line: 0 < resumed >= line["step"])

    def step(self, *, seconds: float, waited: float, examples: float, **event: Any) -> None:
        rate = examples / seconds if seconds > 0 else 0.0
        clock = {"seconds": seconds, "waited": waited, "examples_per_second": rate}
        self._write({"event": "step", **event, "examples": examples, "time": clock})

    def evaluated(self, **event: Any) -> None:
        self._write({"event": "evaluated", **event})

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(_plain(event), ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        with self._writing():
            while line:
                line = line[self._file.write(line) :]

    def _open(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Open at the end, without the lines that a kill tore or that `keep` does not want."""
        with self._writing():
            before = self.path.read_bytes() if self.path.exists() else b""
            after = b"".join(line for line in before.splitlines(keepends=True) if _is_event(line, keep))
            if after != before:
                partial = self.path.with_name(self.path.name + ".partial")
                partial.write_bytes(after)
                partial.replace(self.path)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"could not write {self.path}: {error.strerror or error}") from None


class Progress(Sink):
    """How far training is. On a terminal one line that overwrites itself, elsewhere a line an event.

        step 120/650  epoch 0.55  loss 0.3124  lr 1.9e-05  812 examples/s  padding 14%  data wait 1%  eta 0:42

    Args:
        stream: where to write. When it goes away (a closed pipe or terminal), training goes on in silence.
        terminal: whether a line can be overwritten there; None asks the stream.
        clock: seconds, for the time that is left.
    """

    def __init__(
        self, stream: TextIO, *, terminal: bool | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._terminal = _is_terminal(stream) if terminal is None else terminal
        self._clock = clock
        self._shown = ""  # the line that would be overwritten
        self._gone = False
        self._total = 0
        self._first: tuple[int, float] | None = None  # a step and when it was done, after which the pace is measured

    def started(self, *, total: int, resumed: int) -> None:
        self._total, self._first = total, None
        if total:
            self.message(f"training steps {resumed + 1} to {total}" if resumed else f"training {total} steps")

    def compiling(self, index: int, count: int, shape: Sequence[int]) -> None:
        self._show(f"compiling {index} of {count} shapes ({' × '.join(map(str, shape))})")

    def step(
        self,
        *,
        step: int,
        epoch: float,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        examples: float,
        padding: float,
        seconds: float,
        waited: float,
    ) -> None:
        parts = [
            f"step {step}/{self._total}" if self._total else f"step {step}",
            f"epoch {epoch:.2f}",
            f"loss {loss:.4f}" if abs(loss) < 1e4 else f"loss {loss:.3g}",
            f"lr {learning_rate:.1e}",
        ]
        if seconds > 0:
            parts.append(f"{examples / seconds:.0f} examples/s")
        parts.append(f"padding {padding:.0%}")
        if seconds > 0:
            parts.append(f"data wait {waited / seconds:.0%}")
        if (left := self._left(step)) is not None:
            parts.append(f"eta {_duration(left)}")
        self._show("  ".join(parts))

    def evaluated(self, *, step: int, epoch: float, metrics: Mapping[str, Any], best: bool) -> None:
        figures = [f"{name} {value:.4f}" for name, value in _plain(metrics).items() if isinstance(value, float)]
        self.message("  ".join([f"step {step}", "validation", *figures, *(["(best so far)"] if best else [])]))

    def message(self, text: str) -> None:
        shown = self._shown
        self._show("")
        self._write(text + "\n")
        self._show(shown)

    def finished(self, *, step: int, seconds: float) -> None:
        self._leave()
        self._write(f"{step} steps in {_duration(seconds)}\n")

    def close(self) -> None:
        self._leave()

    def _left(self, step: int) -> float | None:
        """Seconds to go, at the pace since the first line; it takes two lines to know one."""
        now = self._clock()
        if self._first is None or self._total <= 0:
            self._first = (step, now)
            return None
        since, then = self._first
        return (now - then) / max(step - since, 1) * max(self._total - step, 0)

    def _show(self, line: str) -> None:
        """Put `line` in place of the one that is shown; elsewhere than on a terminal, below it."""
        if not self._terminal:
            if line:
                self._write(line + "\n")
            return
        line = line[: max(shutil.get_terminal_size().columns - 1, 1)]  # a line that wraps cannot be overwritten
        if line != self._shown:
            self._write("\r" + line.ljust(len(self._shown)) + ("" if line else "\r"))
            self._shown = line

    def _leave(self) -> None:
        """Let the shown line stand; what comes next starts below it."""
        if self._shown:
            self._write("\n")
            self._shown = ""

    def _write(self, text: str) -> None:
        if self._gone:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the file object is closed
            self._gone = True


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False


def _is_event(line: bytes, keep: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        return line.endswith(b"\n") and keep(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return False


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _plain(value: Any) -> Any:
    """`value` as JSON has it: arrays as lists, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
