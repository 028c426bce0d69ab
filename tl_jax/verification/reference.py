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
from tl_jax.models.families import family
from tl_jax.pretrained.pooling import read_modules
from tl_jax.rules import paths
from tl_jax.verification.inputs import questions

PACKAGES = ("torch", "transformers")
_PROGRAM = Path(__file__).with_name("reference_process.py")
# What transformers calls our inputs.
_INPUTS = {"tokens": "input_ids", "mask": "attention_mask", "token_type": "token_type_ids"}
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # a folder is all there is to read
    "TRANSFORMERS_VERBOSITY": "error",
    "CUDA_VISIBLE_DEVICES": "",  # float32 of a CPU is float32
    "USE_TF": "0",
}


@dataclass(frozen=True)
class Reference:
    """What it computed, by stage as far as it is known, its class, and the versions of its packages.

    `ids` are the tokens that its tokenizer makes of `inputs.questions`, or why it makes none.
    """

    outputs: Mapping[str, np.ndarray]
    kind: str
    versions: Mapping[str, str]
    ids: list[list[int]] | str


def missing() -> list[str]:
    """Which of its packages are not installed here; none of them is imported."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def compute(model: Model, variables: Mapping[str, Any], batch: Mapping[str, np.ndarray], dtype: str) -> Reference:
    """What transformers computes for `batch` with the weights in the model's folder, in "float32" or "float64".

    A stage's output is that of the module whose parameters are the stage's, found through the family's name map. Raises
    `InputError` with the reason where it cannot be computed.
    """
    info = model.info
    inside = "head" in model.names and info.pooling == "pooler"
    dense = None if inside or "head" not in model.names else read_modules(info.source.folder)
    asked, length = questions(model)
    request = {
        "folder": str(info.source.folder),
        "class": "AutoModelForSequenceClassification" if inside else "AutoModel",
        "dtype": dtype,
        "modules": modules(model, variables),
        "writes": {stage.name: stage.writes[0] for stage in model.stages},
        "pooling": info.pooling,
        "dense": dense and dense.dense,
        "texts": asked,
        "length": length,
    }
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "request.json").write_text(json.dumps(request), encoding="utf-8")
        given: dict[str, Any] = {theirs: batch[ours] for ours, theirs in _INPUTS.items() if ours in batch}
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
            found = {stage: outputs[stage] for stage in outputs}
    return Reference(found, answer["class"], answer["versions"], answer["ids"])


def modules(model: Model, variables: Mapping[str, Any]) -> dict[str, list[str]]:
    """For each stage the names its module may have in the reference: what its parameters' names have in common."""
    names = family(model.info.family).NAMES
    found: dict[str, list[str]] = {}
    for stage in model.stages:
        own = [path for path in paths(variables) if path.startswith(f"{stage.home}/")]
        present = [known[0] for path in own if (known := names.to_foreign(path, classifier="head" in model.names))]
        read = [model.info.names[path] for path in own if path in model.info.names]
        found[stage.name] = list(dict.fromkeys(filter(None, (_common(present), _common(read)))))
    return found


def _common(parameters: list[str]) -> str:
    """The innermost module that holds all these parameters."""
    shared = []
    for parts in zip(*(name.split(".")[:-1] for name in parameters), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
