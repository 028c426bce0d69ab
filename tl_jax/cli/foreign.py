"""Option names people bring from Hugging Face and timm, answered with ours; and the nearest name for a misspelt one."""

from __future__ import annotations

import re
from collections.abc import Collection

from tl_jax.cli.flags import FLAGS
from tl_jax.errors import did_you_mean

# What it is here -> what it is called elsewhere, in lower case with dashes (underscores are read as dashes).
RENAMED: dict[str, str] = {
    "--model": "model-name-or-path model-name model-id base-model checkpoint initial-checkpoint",
    "--data": "train-file training-file train-data dataset-name dataset data-dir data-path",
    "--eval-data (scored once, at the end)": "validation-file test-file eval-file val-data validation-data test-data",
    "--split": "train-split train-split-name dataset-split",
    "--task": "task-name",
    "--text-column": "text-column-name text-column-names sentence-column text-field",
    "--image-column": "image-column-name image-field",
    "--image-size": "img-size input-size resolution",
    "--label-column": "label-column-name target-column label-field",
    "--pooling": "pooling-mode pool",
    "--method": "peft peft-method peft-type",
    "--method lora:rank=N": "lora-r lora-rank",
    "--method lora:alpha=N": "lora-alpha",
    "--method lora:targets=NAME": "lora-target-modules target-modules",
    "--method discriminative:decay=RATE": "layer-decay llrd",
    "--epochs": "num-train-epochs num-epochs n-epochs max-epochs nb-epochs",
    "--steps": "max-steps max-train-steps num-train-steps num-steps total-steps",
    "--batch-size (of a whole step, on all devices together)": (
        "per-device-train-batch-size per-device-eval-batch-size train-batch-size eval-batch-size "
        "validation-batch-size bs b"
    ),
    "--accumulate (it cuts --batch-size into parts)": "gradient-accumulation-steps grad-accum-steps accumulation-steps",
    "--optimizer": "optim opt optimizer-name",
    "--lr": "learning-rate lr-base base-lr max-lr peak-lr",
    "--schedule": "lr-scheduler-type lr-scheduler lr-schedule scheduler sched",
    "--warmup (100 is steps, 6% a share of them)": "warmup-ratio warmup-steps num-warmup-steps warmup-epochs",
    "--weight-decay": "wd decay",
    "--clip": "max-grad-norm clip-grad grad-clip gradient-clip-val clip-norm",
    "--ema": "model-ema model-ema-decay ema-decay",
    "--patience": "early-stopping-patience early-stopping",
    "--precision bfloat16": "bf16 fp16 amp half mixed-precision amp-dtype dtype torch-dtype",
    "--mesh data=N,fsdp=N,tensor=N": "fsdp tensor-parallel-size tp-size num-gpus num-devices mesh-shape",
    "--max-length": "max-seq-length max-seq-len max-sequence-length model-max-length max-source-length seq-len",
    "--fraction, or --shots": "max-train-samples train-subset",
    "--seed": "data-seed random-seed random-state",
    "--out": "output-dir output out-dir output-path save-dir",
    "--overwrite": "overwrite-output-dir force",
    "--resume": "resume-from-checkpoint continue",
    "--format": "output-format",
}
UNNEEDED: dict[str, str] = {
    "the command says what is done": "do-train do-eval do-predict",
    "a run is evaluated and saved as it goes, and keeps its best checkpoint": (
        "evaluation-strategy eval-strategy eval-steps save-strategy save-steps save-total-limit load-best-model-at-end "
        "metric-for-best-model greater-is-better logging-steps logging-strategy"
    ),
    "the labels are read from the data": "num-classes num-labels",
    "a model always starts from the weights of its folder": "pretrained from-pretrained",
    "the run's folder holds every metric": "report-to logging-dir",
    "no code is taken from a model's folder": "trust-remote-code",
    "every step is compiled": "torch-compile torchcompile jit-mode-eval",
    "JAX chooses the device; JAX_PLATFORMS=cpu in the environment forbids others": "no-cuda use-cpu device",
}
_RENAMED = {name: ours for ours, names in RENAMED.items() for name in names.split()}
_UNNEEDED = {name: why for why, names in UNNEEDED.items() for name in names.split()}

_OPTION = re.compile(r"-{1,2}[A-Za-z][\w-]*")


def refusal(arguments: Collection[str], command: str, taken: Collection[str]) -> str | None:
    """Why the first option in `arguments` that `command` does not take is refused; None when it takes them all.

    Args:
        arguments: what stands on the command line after the command.
        taken: the names of the options that the command takes.
    """
    for argument in arguments:
        if argument == "--":
            return None
        option, _, _ = argument.partition("=")
        if _OPTION.fullmatch(option) and option not in taken and option not in ("-h", "--help"):
            return f"{option} {_reason(option, command, taken)}"
    return None


def _reason(option: str, command: str, taken: Collection[str]) -> str:
    plain = option.lstrip("-").lower().replace("_", "-")
    ours = _RENAMED.get(plain) or (f"--{plain}" if f"--{plain}" in FLAGS else None)
    if plain in _UNNEEDED:
        return f"is not needed: {_UNNEEDED[plain]}"
    if ours is None:
        close = did_you_mean(f"--{plain}", taken)
        return f"is not an option of {command}" + (close or f"; `tl-jax {command} --help` lists them")
    if ours.partition(" ")[0].rstrip(",") not in taken:
        if ours != option:
            return f"is not an option of {command} ({ours} is what other commands call it)"
        several = f"{option}s"
        return f"is not an option of {command}" + (f"; did you mean {several!r}?" if several in taken else "")
    return f"is {ours} here"
