"""Reading checkpoints of PyTorch without torch: pytorch_model.bin and its shards, .pt, .pth, .th.

They are pickles, that is, programs. `pickled` reads them as data: they make tensors and plain values, or they are
refused. Reading is lazy, as it is of safetensors: a description first, then a tensor at a time.
"""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tl_jax.errors import InputError
from tl_jax.pretrained import strided, tensor_files, torch_containers
from tl_jax.pretrained.malformed import Malformed, shown
from tl_jax.pretrained.tensor_files import Spec
from tl_jax.pretrained.torch_pickles import View

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
SUFFIXES = (".bin", ".pt", ".pth", ".th")
_PARALLEL = "module."  # what DataParallel puts before every name
_DEPTH = 4  # of dicts in dicts among which a state dict is looked for
# Tied and expanded tensors are read as often as they are named: so much more than the file may all of them be. It is
# more than any model shares, and keeps a file of a kilobyte from asking for a terabyte.
_TIMES, _BESIDE = 64, 1 << 24


class Tensors(tensor_files.Tensors):
    """The tensors of one or several PyTorch files.

    Those are of the one state dict in a file, wherever it lies among other values; `module.` before all names is taken
    off. Raises `InputError` also for a file with several state dicts or none, and for a pickle that would do more than
    make tensors and plain values; nothing of that is done.
    """

    def _entries(self, path: Path) -> Iterator[tuple[str, Spec, Callable[[], np.ndarray]]]:
        file = io.BufferedReader(io.FileIO(path))  # the same one to the end, whatever takes its name
        weakref.finalize(self, file.close)
        try:
            checkpoint = torch_containers.read(file)
            views = _state_dict(checkpoint.value)
            _check_sum(views, os.fstat(file.fileno()).st_size)
        except Malformed as e:
            raise InputError(tensor_files.lfs_pointer(path) or f"{path} {e}") from None
        for name, view in views.items():
            spec = Spec(view.shape, view.dtype)
            begin = checkpoint.places[view.key] + view.start
            yield name, spec, partial(_read, path, file, begin, view, checkpoint.big_endian)


def _read(path: Path, file: BinaryIO, begin: int, view: View, big_endian: bool) -> np.ndarray:
    try:
        made = strided.read(file, begin, view.shape, view.strides, view.dtype)
    except EOFError:
        raise InputError(f"{path} was cut short while it was read") from None
    if big_endian:
        made.view(f"u{view.dtype.itemsize}").byteswap(inplace=True)
    return made


def _state_dict(value: Any) -> dict[str, View]:
    """The one dict of tensors in a checkpoint, by the names in it."""
    found = dict(_candidates(value))
    # A figure beside the weights, such as the best accuracy, is no state dict of its own.
    large = {place: views for place, views in found.items() if any(view.shape for view in views.values())} or found
    if not large:
        held = "a tensor" if isinstance(value, View) else f"a {type(value).__name__}"
        raise Malformed(f"holds no dict of tensors by name, but {held}: save a state_dict()")
    if len(large) > 1:
        told = ", ".join(f"{_shown(place)} ({len(views)})" for place, views in list(large.items())[:8])
        raise Malformed(
            f"holds {len(large)} dicts of tensors, and which is the model's is not told: {told}"
            "; save the one that is meant in a file of its own"
        )
    (views,) = large.values()
    if all(name.startswith(_PARALLEL) for name in views):
        return {name.removeprefix(_PARALLEL): view for name, view in views.items()}
    return views


def _candidates(value: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, View]]]:
    """The dicts that hold tensors by name, and the keys that lead to each."""
    seen = set()
    level: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    for _ in range(_DEPTH):
        below = []
        for place, dicts in level:
            if not isinstance(dicts, Mapping) or id(dicts) in seen or _is_optimizer(dicts):
                continue
            seen.add(id(dicts))
            if views := {name: item for name, item in dicts.items() if type(name) is str and isinstance(item, View)}:
                yield place, views
            below += [((*place, name), item) for name, item in dicts.items() if isinstance(item, dict)]
        level = below


def _shown(place: tuple[Any, ...]) -> str:
    return shown(".".join(map(str, place))) if place else "its own"


def _is_optimizer(value: Mapping[Any, Any]) -> bool:
    return "state" in value and "param_groups" in value


def _check_sum(views: Mapping[str, View], nbytes: int) -> None:
    if (total := sum(view.nbytes for view in views.values())) > _TIMES * nbytes + _BESIDE:
        raise Malformed(f"describes {total:,} bytes of tensors in {nbytes:,}: no model repeats its numbers so often")
