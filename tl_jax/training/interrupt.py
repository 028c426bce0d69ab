"""Ctrl-C and SIGTERM as a request: the loop sees it between two steps, saves, and stops."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_NOTICE = b"\nstopping after this step, saving first (Ctrl-C once more stops at once, without)\n"


class Interrupt:
    """While it is entered, the first Ctrl-C (SIGINT) or SIGTERM only makes `requested` true.

        with Interrupt() as interrupt:
            while not interrupt.requested: ...

    A Ctrl-C after that raises KeyboardInterrupt there and then; a further SIGTERM changes nothing. On leaving, the
    handlers are what they were. In a thread other than the main one, where Python has no signals, nothing is ever
    requested and nothing is touched. A signal that the process was started to ignore (`nohup`) stays ignored.
    """

    def __init__(self) -> None:
        self._signals: list[int] = []
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has asked to stop."""
        return bool(self._signals)

    def __enter__(self) -> Interrupt:
        self._signals.clear()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before is not None and before != signal.SIG_IGN:  # None: not Python's, so it could not be put back
                    self._before[number] = before
                    signal.signal(number, self._asked)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _asked(self, number: int, frame: FrameType | None) -> None:
        first = not self._signals
        self._signals.append(number)
        if first:
            with contextlib.suppress(OSError):
                os.write(2, _NOTICE)  # not through a stream, which the signal may have caught in the middle of a write
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
