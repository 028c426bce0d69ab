"""A run is a value: everything that decides its result, by name. Equal experiments give equal bits."""

from __future__ import annotations

import json
import math
import runpy
import types
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tl_jax.errors import InputError, did_you_mean, nearest
from tl_jax.parallel.axes import read as read_mesh

_CHOICES = {
    "task": ("text_classification", "image_classification", "causal_lm"),
    "augment": ("none", "crop", "flip", "crop+flip"),
    "corrupt": ("refuse", "skip"),
    "pooling": ("auto", "cls", "mean", "last", "pooler", "none"),
    "optimizer": ("adamw", "adam", "sgd", "lion"),
    "schedule": ("linear", "cosine", "constant", "one_cycle", "slanted_triangular"),
    "precision": ("float32", "bfloat16"),
}


def one_of(name: str, value: str) -> str:
    """The value of a setting that is one of a few words; raises `InputError` for any other."""
    if value not in _CHOICES[name]:
        raise InputError(f"{_flag(name)} {value!r} is not known{did_you_mean(str(value), _CHOICES[name])}")
    return value


_WORDS = {bool: "True or False", str: "text", int: "a whole number", float: "a number", types.NoneType: "None"}


@dataclass(frozen=True)
class Experiment:
    """What a fine-tune is made of; the fields are the command's flags.

    Attributes:
        model: a folder or a hub name.
        data: a CSV, TSV, JSONL or text file, or a folder of them named train, validation, test; of images also a folder
            with a subfolder for each class, or an .npz file.
        eval_data: scored once, at the end; never trained on.
        split: which named split of `data` to train on.
        task: what is learnt; None is classification of what the model reads.
        text_column, image_column, label_column: inferred and printed when None; of a language model the prompt and its
            completion.
        pooling: how token vectors become one; `auto` follows the checkpoint, of images its class with a head.
        method: how to transfer, as on the command line: `lora:rank=8`; None is `lp_ft` where there is a head to solve,
            else `full`.
        epochs, steps: the budget; `steps` wins when given. Neither: 3 epochs, more where these are under 200 steps.
        batch_size: examples a step, cut into `accumulate` parts.
        lr: the peak learning rate; None is the method's own.
        schedule: None is the method's own, `linear` for most.
        warmup: steps (a whole number ≥ 1) or share of all steps (below 1); None is the schedule's own, 0.1 for most.
        weight_decay: decoupled; biases and norms do not decay.
        clip: the largest global norm of the trainable gradient; 0 is no limit.
        ema: the decay of a moving average of the trainable parameters, which is what is evaluated and kept; 0 is none.
        patience: evaluations without a better one before stopping, counted in the last phase; 0 is never.
        precision: what the step computes in; trainable parameters are float32 either way.
        max_length: tokens kept of a text; None is what the model allows.
        image_size: the side of the square that images become; None is what the model was trained on.
        augment: what is drawn for each training image: a part of it in its place (`crop`), or left and right exchanged.
        corrupt: whether images that cannot be read are refused, or left out and counted.
        shots, fraction: how much of each class to train on; None is all.
        mesh: devices by axis, `data=4,fsdp=2`, or `auto`; None is one device. It changes rounding and no more.
        no_cache: compute what is frozen in every step, and keep no features on disk. It changes rounding and no more.
        seed: decides everything drawn.
        out: the run's folder; None is `runs/<data>-<method>`.
    """

    model: str | None = None
    data: str | None = None
    eval_data: str | None = None
    split: str | None = None
    task: str | None = None
    text_column: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    pooling: str = "auto"
    method: str | None = None
    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float | None = None
    schedule: str | None = None
    warmup: float | None = None
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0
    patience: int = 0
    precision: str = "float32"
    max_length: int | None = None
    image_size: int | None = None
    augment: str = "none"
    corrupt: str = "refuse"
    shots: int | None = None
    fraction: float | None = None
    mesh: str | None = None
    no_cache: bool = False
    seed: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value, kinds = getattr(self, name), get_args(hint) or (hint,)
            fits = isinstance(value, (*kinds, int) if float in kinds else kinds)
            fits = fits and isinstance(value, bool) == (bool in kinds)
            if not fits:
                words = " or ".join(_WORDS[kind] for kind in kinds)
                raise InputError(f"{_flag(name)} must be {words}, not {value!r}")
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), float) and not math.isfinite(value):
                raise InputError(f"{_flag(f.name)} must be a finite number, not {value}")
        for name in _CHOICES:
            if (value := getattr(self, name)) is not None:  # the annotations say where None may stand
                one_of(name, value)
        for name, least in (
            ("batch_size", 1),
            ("accumulate", 1),
            ("patience", 0),
            ("seed", 0),
            ("clip", 0),
            ("weight_decay", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{_flag(name)} must be at least {least}, not {getattr(self, name)}")
        for name in ("steps", "max_length", "image_size", "shots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{_flag(name)} must be at least 1, not {value}")
        if self.epochs is not None and self.epochs <= 0:
            raise InputError(f"--epochs must be above 0, not {self.epochs}")
        if not 0 <= self.ema < 1:
            raise InputError(f"--ema must be a decay from 0 (none) to below 1, such as 0.999, not {self.ema}")
        if self.shots is not None and self.fraction is not None:
            raise InputError("--shots and --fraction exclude each other: give one")
        if self.mesh is not None:
            read_mesh(self.mesh)
        if self.seed >= 2**32:
            raise InputError(f"--seed must be below 2**32, not {self.seed}")

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """From a Python file that exposes `experiment`, or a saved experiment.json (or the run folder holding it)."""
        path = Path(path)
        if path.is_dir():
            path = path / "experiment.json"
        if not path.is_file():
            beside = [str(path.parent / name.name) for name in path.parent.glob("*")] if path.parent.is_dir() else []
            close = nearest(str(path), beside)
            raise InputError(f"no experiment file {path}" + (f"; did you mean {close[0]}?" if close else ""))
        if path.suffix == ".json":
            return cls.from_json(path.read_text(encoding="utf-8"), str(path))
        if path.suffix != ".py":
            raise InputError(f"an experiment is a .py or .json file, not {path}")
        try:
            found = runpy.run_path(str(path)).get("experiment")
        except InputError:
            raise
        except Exception as e:
            raise InputError(f"{path} stops with {type(e).__name__}: {e}") from e
        if not isinstance(found, cls):
            raise InputError(f"{path} must set `experiment = tl_jax.Experiment(…)`")
        return found

    @classmethod
    def from_json(cls, text: str, where: str = "experiment") -> Experiment:
        """The inverse of `to_json`; an unknown field is an error that names the nearest."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as e:
            raise InputError(f"{where} is not JSON: {e}") from None
        if not isinstance(values, dict):
            raise InputError(f"{where} must hold one JSON object")
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(f"{where} has the unknown field {name!r}{did_you_mean(name, known)}")
        return cls(**values)

    def to_json(self) -> str:
        """One field a line, in a fixed order."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def differences(self, other: Experiment, *, ignoring: Collection[str] = ()) -> list[str]:
        """What makes `other` another experiment, a line a field; where a run lies does not count."""
        return [
            f"{_flag(f.name)} is {getattr(other, f.name)!r}, the run has {getattr(self, f.name)!r}"
            for f in fields(self)
            if f.name not in ("out", *ignoring) and getattr(self, f.name) != getattr(other, f.name)
        ]


def _flag(name: str) -> Any:
    return "--" + name.replace("_", "-")
