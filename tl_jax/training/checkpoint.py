"""The checkpoints of a run: which there are, which is the newest good one, when an old one may go.

    checkpoints/
      120/     what `snapshot` writes
      140/
      best/    the same, of the best step so far

A checkpoint is written and flushed under a hidden name beside these; the rename to its final name is what makes it
exist, so a run killed at any moment leaves whole checkpoints and hidden rubbish, which the next one clears away.
"""

from __future__ import annotations

import operator
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tl_jax.disk import sync
from tl_jax.errors import InputError, did_you_mean
from tl_jax.training import snapshot
from tl_jax.training.snapshot import Restored

_STEP = re.compile(r"0|[1-9][0-9]*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_HIDDEN = re.compile(r"\.tl_jax\.(partial|previous|deleted)\.(.+)")
_BEST = "best"


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: `RUN/checkpoints`; made at the first save.
        keep: how many of the newest steps to keep (the best has a place of its own).
        say: takes the messages about checkpoints that cannot be used.

    One process at a time may save into a folder. Others may read meanwhile; what is replaced under their hands they
    take for damaged. Nothing is deleted but what its `commit.json` shows to be ours, and what has a hidden name.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2, say: Callable[[str], object] = print) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.folder = Path(folder).absolute()
        self.keep = keep
        self.say = say
        self._damaged: set[int] = set()
        self._cleaned = False

    def steps(self) -> list[int]:
        """The committed steps, ascending. Their bytes are checked when they are restored, not here."""
        return sorted(step for step, path in self._numbered().items() if snapshot.is_committed(path))

    def save(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray | jax.Array],
        meta: Mapping[str, Any],
        *,
        name: str | None = None,
    ) -> Path:
        """Write a checkpoint of `step` and return its folder; when this returns it is on the disk.

        Args:
            step: steps done.
            arrays: leaves by name (any string). Any dtype of numbers, any shape; random keys as `jax.random.key_data`.
                Every array must be addressable from this process.
            meta: what JSON can hold; Python floats come back exactly.
            name: a place of its own instead of the step's, as `best` has.

        What was there before stays until the new one is committed; then older steps than the newest `keep` go.

        Raises InputError if it could not be written (disk full, …): nothing of it is left, and what was there is there.
        """
        step = operator.index(step)
        slot = str(step) if name is None else name
        if not (_STEP if name is None else _NAME).fullmatch(slot):
            raise ValueError(f"a checkpoint cannot be called {slot!r}")
        partial = self._hidden("partial", slot)
        wrong = None
        try:
            self._clean()
            partial.mkdir(parents=True)
            snapshot.write(partial, step, arrays, meta)
            self._publish(partial, slot)
        except Exception as error:
            wrong = snapshot.trouble(error)
            if wrong is None:
                raise
        finally:
            self._cleaned &= _gone(partial)
        if wrong is not None:
            good = [s for s in self.steps() if s not in self._damaged]
            last = f"the last good checkpoint is step {good[-1]}" if good else "there is no earlier checkpoint"
            raise InputError(f"could not write the checkpoint {self.folder / slot}: {wrong}; {last}")
        if name is None:
            self._damaged.discard(step)
            self._prune(step)
        return self.folder / slot

    def save_best(self, step: int, arrays: Mapping[str, np.ndarray | jax.Array], meta: Mapping[str, Any]) -> Path:
        """`save` into the place of the best; the previous best exists until this one does."""
        return self.save(step, arrays, meta, name=_BEST)

    def restore(self, step: int | None = None) -> Restored | None:
        """The newest good checkpoint, or None when there is none; or the one of `step`.

        A checkpoint that is truncated, altered, half-written or not ours is passed over, and `say` is told its
        folder, the leaf and what is wrong.

        Raises InputError for an explicit `step` that is absent or damaged.
        """
        there = self._numbered()
        if step is not None:
            if step not in there:
                choices = did_you_mean(str(step), map(str, sorted(there)))
                raise InputError(f"no checkpoint of step {step} in {self.folder}{choices}")
            try:
                return snapshot.read(there[step])
            except snapshot.Damaged as damage:
                raise InputError(f"the checkpoint {there[step]} cannot be used: {damage}") from None
        for number in sorted(there, reverse=True):
            if (restored := self._try(there[number])) is not None:
                if number != max(there):
                    self.say(f"falling back to the last good checkpoint, step {number}")
                return restored
            self._damaged.add(number)
        return None

    def restore_best(self) -> Restored | None:
        """The best checkpoint; None when there is none, or when it is damaged (which `say` is told)."""
        path = self._slots().get(_BEST)
        return None if path is None else self._try(path)

    def _try(self, path: Path) -> Restored | None:
        try:
            return snapshot.read(path)
        except snapshot.Damaged as damage:
            self.say(f"the checkpoint {path} cannot be used: {damage}")
            return None

    def clear(self) -> None:
        """Delete every checkpoint here, the best too; what is not ours stays."""
        for slot, path in self._slots().items():
            if snapshot.is_ours(path):
                doomed = self._hidden("deleted", slot)
                path.rename(doomed)
                shutil.rmtree(doomed)
        self._damaged.clear()

    def _hidden(self, kind: str, slot: str) -> Path:
        return self.folder / f".tl_jax.{kind}.{slot}"

    def _slots(self) -> dict[str, Path]:
        """The folder that stands for each slot: its own, or if a kill came between two renames the previous one."""
        if not self.folder.is_dir():
            return {}
        folders = [path for path in self.folder.iterdir() if path.is_dir()]
        hidden = {path: match for path in folders if (match := _HIDDEN.fullmatch(path.name))}
        previous = {match[2]: path for path, match in hidden.items() if match[1] == "previous"}
        return previous | {path.name: path for path in folders if path not in hidden}

    def _numbered(self) -> dict[int, Path]:
        return {int(slot): path for slot, path in self._slots().items() if _STEP.fullmatch(slot)}

    def _clean(self) -> None:
        """Finish what a killed run had begun. Before the first save only: a reader may not touch a run that writes."""
        if self._cleaned:
            return
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            match = _HIDDEN.fullmatch(path.name)
            if not match or path.is_symlink() or not path.is_dir():
                continue
            if match[1] == "previous" and not (self.folder / match[2]).exists():
                path.rename(self.folder / match[2])
            else:
                shutil.rmtree(path)
        self._cleaned = True

    def _publish(self, partial: Path, slot: str) -> None:
        """Give `partial` its final name; at every moment one whole checkpoint stands for the slot."""
        target, previous = self.folder / slot, self._hidden("previous", slot)
        if target.exists() or target.is_symlink():
            if snapshot.is_ours(target):
                shutil.rmtree(previous, ignore_errors=True)
                target.rename(previous)
            else:
                aside = next(p for n in range(1, 10**6) if not (p := self.folder / f"{slot}.aside-{n}").exists())
                target.rename(aside)
                self.say(f"{target} was not a checkpoint of ours, or too damaged to tell: moved to {aside.name}")
        try:
            partial.rename(target)
        except OSError:
            if previous.exists():
                previous.rename(target)
            raise
        sync(self.folder)
        shutil.rmtree(previous, ignore_errors=True)

    def _prune(self, step: int) -> None:
        """Keep the newest `keep` of the steps up to `step`, which was just saved. Damaged ones do not count."""
        steps = [s for s in self.steps() if s <= step]
        kept = [s for s in steps if s not in self._damaged][-self.keep :]
        for old in set(steps).difference(kept):
            path, doomed = self.folder / str(old), self._hidden("deleted", str(old))
            if not snapshot.is_ours(path):
                continue
            try:
                path.rename(doomed)  # at once: a kill must not leave half a checkpoint under a step's name
                shutil.rmtree(doomed)
            except OSError as error:
                self.say(f"could not delete the old checkpoint {path}: {error}")


def _gone(partial: Path) -> bool:
    """Remove what a failed write left, and again while TensorStore's threads, which nobody can await, add to it."""
    for _ in range(40):
        if not partial.exists():
            return True
        shutil.rmtree(partial, ignore_errors=True)
        time.sleep(0.05)
    return False
