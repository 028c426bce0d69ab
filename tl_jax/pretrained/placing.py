"""A finished folder of a model comes to its place at once, and takes away nothing but a model."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from tl_jax.disk import sync
from tl_jax.errors import InputError
from tl_jax.pretrained.json_files import read_json
from tl_jax.pretrained.sources import BESIDE, FILES, TORCH_FILES

# What lies in a model's folder and may be made again; a certificate is of the weights that it lies beside.
_REPLACED = (*FILES, *TORCH_FILES, *BESIDE, "README.md", "verification.json", "verification.safetensors")
_SHOWN = 4


def check_target(target: Path, overwrite: bool) -> None:
    """Raise `InputError` for a folder that has something in it, or, to `overwrite`, something else than a model."""
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file: give a folder to write the model to")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{target} has something in it: give another folder, or --overwrite the model there")
    if not (target / "config.json").is_file() or "model_type" not in read_json(target / "config.json"):
        raise InputError(
            f"{target} holds no model (no config.json that names a model_type), and nothing else is overwritten"
        )
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir())
    if others := [name for name in names if not any(fnmatchcase(name, known) for known in _REPLACED)]:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise InputError(
            f"{target} holds more than a model ({', '.join(others[:_SHOWN])}{more}), and nothing else is overwritten: "
            "give another folder, or move them away"
        )


def put_in_place(made: Path, target: Path) -> None:
    """Rename the finished folder to its name; a folder it replaces is taken away only then."""
    old = None
    if target.exists() and any(target.iterdir()):
        old = target.with_name(f"{made.name}.old")
        os.rename(target, old)
    try:
        os.rename(made, target)
    except OSError:
        if old is not None:
            os.rename(old, target)
        raise
    sync(target.parent)
    if old is not None:
        shutil.rmtree(old)
