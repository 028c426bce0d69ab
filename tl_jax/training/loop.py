"""The training loop: step, evaluate, save, in an order that lets any moment be resumed to the same bits.

All that the loop remembers besides the state is `Memory`, a few numbers that travel in every checkpoint.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tl_jax.data import filled, shape_of
from tl_jax.errors import InputError
from tl_jax.heap import give_back_if_grown
from tl_jax.training.events import Events
from tl_jax.training.phases import phase_at
from tl_jax.training.store import Store

_LAG = 4  # steps a metric may stay on the device: reading it sooner would make the device wait for the host
_SAVE_SHARE = 20  # a save may cost one part in so many of the time
_SAVE_SECONDS = 2.0  # and happens no more often than this


class Diverged(InputError):
    """The loss or the gradient stopped being finite; the last checkpoint is from before."""


class Interrupted(KeyboardInterrupt):
    """Somebody asked the run to stop; what it had done of its steps was saved first."""


@dataclass
class Memory:
    """What the loop carries from step to step beside the state; saved with it."""

    best_score: float = -math.inf
    best_step: int = -1
    best_metrics: dict[str, Any] = field(default_factory=dict)
    worse: int = 0  # evaluations since the score last rose
    loss_sum: float = 0.0  # since the last log line
    weight: float = 0.0
    real: int = 0  # tokens since then, and all positions; or images, and all rows
    padded: int = 0
    done: bool = False


@dataclass(frozen=True)
class Loop:
    """What a run of steps needs.

    `step(p)` is the compiled `(state, batch, hyper) -> (state, metrics)` of phase p. The phases start at `starts`, and
    `thaw(state, p)` makes the state that phase p begins with of the last one before it. `batch(i)` is the batch of step
    i, of at most `shapes` shapes, as the host reads it and as the step does; `rate(i)` the learning rate, `hyper(rate)`
    the numbers that a step takes. `validate(i, state)` gives, for the state after i steps, metrics with `monitor` among
    them, the higher the better (the lower, if its name has a minus in front), every `validate_every` epochs and at the
    end (None: no validation, the last state is the best).
    `snapshot(state)` gives all arrays of a checkpoint, `result(state)` those of the outcome. `where(index)` names an
    example.
    """

    step: Callable[[int], Callable[..., tuple[Any, Mapping[str, Any]]]]
    starts: tuple[int, ...]
    thaw: Callable[[Any, int], Any]
    batch: Callable[[int], tuple[Mapping[str, np.ndarray], Mapping[str, Any]]]
    rate: Callable[[int], float]
    hyper: Callable[[float], Mapping[str, np.float32]]
    total: int
    per_epoch: int
    shapes: int
    validate: Callable[[int, Any], Mapping[str, Any]] | None
    validate_every: int
    monitor: str
    patience: int
    snapshot: Callable[[Any], Mapping[str, Any]]
    result: Callable[[Any], Mapping[str, Any]]
    checkpoints: Store
    events: Events
    stop_asked: Callable[[], bool]
    where: Callable[[int], str]

    def run(self, state: Any, memory: Memory) -> tuple[Any, Memory, list[float]]:
        """Train from wherever `state` stands to the end: the last state, and the seconds each shape took to compile.

        Raises `Diverged` naming step and batch, or `Interrupted` after saving.
        """
        start = i = int(state.step)
        log_every = max(1, self.total // 50)
        pending: deque[tuple[int, Mapping[str, Any], Mapping[str, Any]]] = deque()
        compiled: dict[Any, float] = {}  # seconds, by phase and shape
        saved = mark = time.monotonic()
        save_took = waited = 0.0

        def settle(lag: int) -> None:
            while len(pending) > lag:
                at, batch, metrics = pending.popleft()
                loss, weight = float(metrics["loss_sum"]), float(metrics["weight"])
                if not bool(metrics["finite"]):
                    raise self._diverged(at, batch, loss / max(weight, 1.0), float(metrics["grad_norm"]))
                memory.loss_sum, memory.weight = memory.loss_sum + loss, memory.weight + weight

        def save() -> None:
            nonlocal saved, save_took, mark
            settle(0)  # a state after a bad step must not become the last good one
            began = time.monotonic()
            self.checkpoints.save(i, self.snapshot(state), asdict(memory))
            saved, save_took = time.monotonic(), time.monotonic() - began
            mark += save_took  # the pace is that of the steps

        while i < self.total and not memory.done:
            # A state is saved before it is thawed: what it holds follows from the step before.
            phase = phase_at(self.starts, i)
            if phase > (phase_at(self.starts, i - 1) if i else 0):
                state = self.thaw(state, phase)
            began = time.monotonic()
            batch, moved = self.batch(i)
            waited += time.monotonic() - began
            shape = shape_of(batch)
            if new := (phase, shape) not in compiled:
                self.events.compiling(len(compiled) + 1, self.shapes, shape)
            hyper = self.hyper(self.rate(i))
            began = time.monotonic()
            state, metrics = self.step(phase)(state, moved, hyper)  # returns when compiled, not when computed
            if new:
                compiled[phase, shape] = time.monotonic() - began
                saved += compiled[phase, shape]  # no work that a save could keep
            pending.append((i, batch, metrics))
            settle(_LAG)
            give_back_if_grown()
            real, places = filled(batch)
            memory.real, memory.padded = memory.real + real, memory.padded + places
            i += 1

            if i % log_every == 0 or i == 1 or i == self.total:
                settle(0)
                now = time.monotonic()
                self.events.step(
                    step=i,
                    epoch=i / self.per_epoch,
                    loss=memory.loss_sum / max(memory.weight, 1.0),
                    learning_rate=float(hyper["learning_rate"]),
                    grad_norm=float(metrics["grad_norm"]),
                    examples=memory.weight,
                    padding=1 - memory.real / memory.padded,
                    seconds=now - mark,
                    waited=waited,
                )
                memory.loss_sum = memory.weight = 0.0
                memory.real = memory.padded = 0
                waited, mark = 0.0, now
            # Evaluate the new state, remember, then save: a snapshot and the position in the data agree.
            if self.validate and (i % (self.validate_every * self.per_epoch) == 0 or i == self.total):
                settle(0)
                began = time.monotonic()
                self.evaluate(i, state, memory)
                mark += time.monotonic() - began
            if self.stop_asked():
                save()
                raise Interrupted(f"stopped after step {i} of {self.total}, saved")
            if time.monotonic() - saved > max(_SAVE_SECONDS, _SAVE_SHARE * save_took):
                save()
        settle(0)
        if self.validate is None:
            self.checkpoints.save_best(i, self.result(state), asdict(memory))
        if i > start or not self.checkpoints.steps():
            save()
        return state, memory, list(compiled.values())

    def evaluate(self, i: int, state: Any, memory: Memory) -> None:
        """Score the state after `i` steps, and keep it if none before it was better; needs `validate`.

        Of equal scores the later is kept: its rate has come further down. (The lower loss is no better a judge: a
        fine-tune grows surer from epoch to epoch, of its mistakes too.) For the patience it is no progress.
        """
        assert self.validate is not None
        metrics = self.validate(i, state)
        name = self.monitor.removeprefix("-")
        score = float(metrics[name]) if name == self.monitor else -float(metrics[name])
        if score > memory.best_score:
            memory.worse = 0
        else:
            memory.worse += i > self.starts[-1]  # before all has thawed the best may be yet to come
            memory.done = 0 < self.patience <= memory.worse
        if best := score >= memory.best_score:
            memory.best_score, memory.best_step, memory.best_metrics = score, i, dict(metrics)
            self.checkpoints.save_best(i, self.result(state), asdict(memory))
        self.events.evaluated(step=i, epoch=i / self.per_epoch, metrics=metrics, best=best)
        if memory.done:
            self.events.message(f"no better {name} in {memory.worse} evaluations: stopping at step {i}")

    def _diverged(self, at: int, batch: Mapping[str, Any], loss: float, norm: float) -> Diverged:
        index = np.asarray(batch["index"]).ravel()
        first, *others = index[index >= 0]
        good = self.checkpoints.steps()
        last = f"the last good checkpoint is step {max(good)}" if good else "no checkpoint had been written yet"
        advice = "Try a lower --lr, with --overwrite"
        if at == 0:
            advice = (
                "Nothing was updated yet, so it is not the learning rate: tl-jax inspect MODEL counts the numbers in "
                "the weights that are not finite"
            )
        return Diverged(
            f"training diverged at step {at + 1}: loss {loss:g}, gradient norm {norm:g} (in the batch of "
            f"{self.where(int(first))} and {len(others)} more; at learning rate {self.rate(at):g}); {last}. {advice}"
        )
