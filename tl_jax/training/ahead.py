"""Batches made ahead of time, on a thread of their own, while the device computes; in the order of the steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

_DEPTH = 2  # batches that wait: one being made, one ready


class Ahead:
    """`ahead(i)` is `make(i)`, and the next few are made meanwhile, up to the step before `stop(i)`.

    `make` is pure and `i` goes up by one from call to call; after a jump it starts anew. What `make` raises is raised
    by the call that asks for that step. Use it as a context: leaving it waits for the batch that is being made.
    """

    def __init__(self, make: Callable[[int], Any], stop: Callable[[int], int]) -> None:
        self._make = make
        self._stop = stop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tl_jax batches")
        self._waiting: deque[tuple[int, Future[Any]]] = deque()

    def __call__(self, i: int) -> Any:
        while self._waiting and self._waiting[0][0] != i:
            self._waiting.popleft()[1].cancel()
        made = self._waiting.popleft()[1].result() if self._waiting else self._make(i)
        last = self._waiting[-1][0] if self._waiting else i
        for step in range(last + 1, min(i + _DEPTH, self._stop(i) - 1) + 1):
            self._waiting.append((step, self._thread.submit(self._make, step)))
        return made

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)
