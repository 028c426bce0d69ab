"""Asking the reference implementation, in a process of its own, what it computes at every stage of a model."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.families import has_class
from tl_jax.models.families import names as names_of
from tl_jax.pretrained.json_files import read_json
from tl_jax.pretrained.pooling import read_modules
from tl_jax.rules import paths
from tl_jax.trees import STATISTICS
from tl_jax.verification.kinds import kind_of

PACKAGES = ("torch", "transformers")
_PROGRAM = Path(__file__).with_name("reference_process.py")
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # a folder is all there is to read
    "TRANSFORMERS_VERBOSITY": "error",
    "CUDA_VISIBLE_DEVICES": "",  # float32 of a CPU is float32
    "USE_TF": "0",
}


@dataclass(frozen=True)
class Reference:
    """What it computed, by stage as far as it is known, its class, and the versions of its packages.

    `prepared` is what its processor makes of what the kind has `asked`, empty for nothing asked, or why it makes none.
    """

    outputs: Mapping[str, np.ndarray]
    kind: str
    versions: Mapping[str, str]
    prepared: list[Any] | str


def missing() -> list[str]:
    """Which of its packages are not installed here; none of them is imported."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def absent(model: Model) -> str:
    """Why transformers cannot compute a model here; "" where it can."""
    info = model.info
    if not has_class(info.family):
        return f"transformers has no class that computes a {info.family}"
    if info.source.file is not None:
        return f"transformers reads no file alone, but the folder that tl-jax convert makes of {info.source.file}"
    config = info.source.folder / "config.json"
    if not config.is_file() or "model_type" not in read_json(config):
        return "transformers does not read Meta's files, but the folder that tl-jax convert makes of them"
    if lacking := missing():
        return f"it needs pip install {' '.join(lacking)}"
    return ""


def compute(model: Model, variables: Mapping[str, Any], batch: Mapping[str, np.ndarray], dtype: str) -> Reference:
    """What transformers computes for `batch` with the weights in the model's folder, in "float32" or "float64".

    A stage's output is that of the module whose parameters are the stage's, found through the family's name map. Raises
    `InputError` with the reason where it cannot be computed.
    """
    info, kind = model.info, kind_of(model)
    inside = kind.HEADS.get(str(info.pooling)) if "head" in model.names else None
    dense = None if inside or "head" not in model.names else read_modules(info.source.folder)
    request = {
        "folder": str(info.source.folder),
        "class": inside or "AutoModel",
        "dtype": dtype,
        "parameters": parameters(model, variables),
        "writes": {stage.name: stage.writes[0] for stage in model.stages},
        "pooling": info.pooling,
        "front": next((getattr(stage.module, "front", 0) for stage in model.stages if stage.name == "pooler"), 0),
        "dense": dense and dense.dense,
        "asked": kind.asked(model),
    }
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "request.json").write_text(json.dumps(request), encoding="utf-8")
        given: dict[str, Any] = kind.given(batch)
        np.savez(place / "inputs.npz", **given)
        done = subprocess.run(
            [sys.executable, "-P", str(_PROGRAM), name],
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise InputError(f"transformers does not compute {info.source.folder}: {reason}")
        answer = json.loads((place / "answer.json").read_text(encoding="utf-8"))
        with np.load(place / "outputs.npz") as outputs:
            found = {stage: _channels_last(outputs[stage]) for stage in outputs}
    return Reference(found, answer["class"], answer["versions"], answer["prepared"])


def parameters(model: Model, variables: Mapping[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """For each stage that has parameters, the names that each of them may have in the reference."""
    names, found = names_of(model.info.config), dict[str, list[tuple[str, ...]]]()
    for path in paths(variables):
        if not path.startswith(f"{STATISTICS}/"):
            found.setdefault(model.names[model.depth(path)], []).append(names.spellings(path))
    shared = {stage.name: stage.home for stage in model.stages if stage.name not in found}
    return found | {name: found[home] for name, home in shared.items() if home in found}


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Feature maps `[B, C, H, W]` as ours are, `[B, H, W, C]`; anything else as it is."""
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array
