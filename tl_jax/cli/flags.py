"""The flags of every command, in one table: each has one name and one meaning wherever it appears.

A command names the flags it takes; parsing returns only those the user gave. The defaults belong to `Experiment`, and
help shows them from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tl_jax.cli.values import above_zero, share, steps_or_share, whole, zero_or_more
from tl_jax.errors import InputError
from tl_jax.methods import METHODS  # names and one line each; the methods themselves are imported when asked for


@dataclass(frozen=True)
class Flag:
    """One flag: its name, what it means, and how its value is read.

    `read` None makes a switch, which is given or not. `default` says in words what happens where the experiment's own
    default is None, that is, worked out when the run starts.
    """

    name: str
    help: str
    read: Callable[[str], Any] | None = str
    metavar: str = "NAME"
    default: str = ""

    @property
    def field(self) -> str:
        """The flag's name in Python: `--batch-size` is `batch_size`."""
        return self.name[2:].replace("-", "_")


# By the heading that help lists them under.
TABLE: dict[str, tuple[Flag, ...]] = {
    "model and data": (
        Flag("--model", "pretrained weights: a folder, or a name on the Hugging Face hub"),
        Flag(
            "--data",
            "the examples: a CSV or TSV file with a header, JSON lines, or plain text for a language model; "
            "a folder of images, or an .npz file",
            metavar="FILE",
        ),
        Flag("--eval-data", "examples scored once, at the end", metavar="FILE", default="the held-out examples"),
        Flag("--split", "which named split of --data to use", default="train"),
        Flag(
            "--task",
            "what is learnt: text_classification, image_classification, causal_lm",
            default="classification, by what the model reads",
        ),
        Flag("--text-column", "the column that holds the text", default="inferred, printed"),
        Flag("--image-column", "the column that holds the path of an image", default="inferred, printed"),
        Flag("--label-column", "the column that holds the label", default="inferred, printed"),
        Flag("--pooling", "how a text or image becomes one vector: auto, cls, mean, last, pooler, none", metavar="HOW"),
        Flag("--max-length", "tokens kept of a text", whole(1), "N", default="what the model allows"),
        Flag("--image-size", "the side of the square that images become", whole(1), "N", default="the model's"),
        Flag("--corrupt", "images that cannot be read: refuse, skip", metavar="HOW"),
        Flag("--shots", "train on N examples of each label", whole(1), "N", default="all"),
        Flag("--fraction", "train on a share of each label: 10% or 0.1", share, "SHARE", default="all"),
    ),
    "training": (
        Flag(
            "--method",
            f"how to transfer, with its parameters as in lora:rank=8: {', '.join(METHODS)}",
            default="lp_ft",
        ),
        Flag("--epochs", "passes over the examples", above_zero, "N", default="3; up to 30 to make 200 steps"),
        Flag("--steps", "optimiser steps, in place of --epochs", whole(1), "N", default="what --epochs needs"),
        Flag("--batch-size", "examples in a step", whole(1), "N"),
        Flag("--accumulate", "cut each batch into N parts, to save memory", whole(1), "N"),
        Flag("--optimizer", "what turns gradients into updates: adamw, adam, sgd, lion"),
        Flag("--lr", "the highest learning rate", zero_or_more, "RATE", default="the method's"),
        Flag(
            "--schedule",
            "the learning rate over time: linear, cosine, constant, one_cycle, slanted_triangular",
            default="the method's, linear for most",
        ),
        Flag(
            "--warmup",
            "how long to climb to --lr: 100 (steps), 6% or 0.06 (of all)",
            steps_or_share,
            "N",
            default="the schedule's, 10% for most",
        ),
        Flag("--weight-decay", "decoupled weight decay", zero_or_more, "RATE"),
        Flag("--clip", "the largest norm of the gradient; 0 sets no limit", zero_or_more, "NORM"),
        Flag("--augment", "what is drawn for each training image: none, crop, flip, crop+flip", metavar="WHAT"),
        Flag("--ema", "evaluate and keep a moving average of what trains, of this decay: 0.999", zero_or_more, "DECAY"),
        Flag("--patience", "stop after N evaluations without a better one; 0 never stops", whole(0), "N"),
        Flag("--precision", "what a step computes in: float32, bfloat16", metavar="TYPE"),
        Flag("--mesh", "devices by axis (data, fsdp, tensor) or auto", metavar="data=4,fsdp=2", default="one device"),
        Flag("--no-cache", "compute what is frozen in every step, and keep no features on disk", None),
        Flag("--seed", "decides everything that is drawn", whole(0), "N"),
    ),
    "continuation": (
        Flag(
            "--max-new-tokens",
            "tokens a language model adds to a text, at most",
            whole(1),
            "N",
            default="64, or half of what its texts may have",
        ),
        Flag("--temperature", "draw its tokens, the more freely the higher", zero_or_more, "T", default="0: likeliest"),
        Flag("--top-k", "draw among the N likeliest", whole(0), "N", default="0: all"),
        Flag("--top-p", "draw among the likeliest that have this share together", share, "SHARE", default="1: all"),
    ),
    "comparison": (
        Flag("--methods", f"what to compare, separated by commas: {', '.join(METHODS)}", metavar="NAMES"),
        Flag("--seeds", "how many seeds each is run with: 3 is 0, 1, 2", whole(1), "N"),
    ),
    "run": (
        Flag("--out", "the run's folder", metavar="FOLDER", default="runs/<data>-<method>"),
        Flag("--resume", "go on from the last checkpoint in --out", None),
        Flag("--overwrite", "replace the run in --out", None),
        Flag("--dry-run", "print the plan, and stop before training", None),
    ),
    "weights": (
        Flag("--dtype", "what they are stored as: float32, bfloat16, float16, float64", default="as they are"),
        Flag("--max-shard-size", "split files above this size: 2GB, 500MB", metavar="SIZE", default="one file"),
        Flag("--against", "what they are compared with: reference, golden, structure", default="the best there is"),
    ),
    "output": (
        Flag("--format", "how results are printed", metavar="HOW"),
        Flag("--verbose", "show what the platform logs", None),
    ),
}
FLAGS = {flag.name: flag for flags in TABLE.values() for flag in flags}

EXCLUSIVE = (("--epochs", "--steps"), ("--shots", "--fraction"), ("--resume", "--overwrite"))


def add(
    parser: argparse.ArgumentParser,
    names: Iterable[str],
    *,
    defaults: Mapping[str, Any] | None = None,
    read: Mapping[str, Callable[[str], Any]] | None = None,
    words: Mapping[str, str] | None = None,
) -> None:
    """Gives `parser` the flags `names` under their headings; a flag not given leaves no trace in what parsing returns.

    Args:
        defaults: by field, what help shows as the default; where it is None, the flag's own words.
        read: by name, a reader of this command's own, as for `--format`, whose words differ.
        words: by name, what help says of a flag in this command, where it is more or less than elsewhere.
    """
    names, defaults, read, words = set(names), defaults or {}, read or {}, words or {}
    for heading, flags in TABLE.items():
        group = parser.add_argument_group(heading)
        for flag in flags:
            if flag.name not in names:
                continue
            shown = defaults.get(flag.field)
            shown = flag.default if shown is None else shown
            said = words.get(flag.name, flag.help)
            if flag.read is None:
                group.add_argument(flag.name, action="store_true", default=argparse.SUPPRESS, help=said)
            else:
                group.add_argument(
                    flag.name,
                    type=read.get(flag.name, flag.read),
                    metavar=flag.metavar,
                    default=argparse.SUPPRESS,
                    help=(said + (f" (default: {shown})" if shown != "" else "")).replace("%", "%%"),
                )


def given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The flags among `names` that the user gave, by field.

    Raises:
        InputError: two of them exclude each other.
    """
    found = {FLAGS[name].field: getattr(args, FLAGS[name].field) for name in names if FLAGS[name].field in args}
    for one, other in EXCLUSIVE:
        if FLAGS[one].field in found and FLAGS[other].field in found:
            raise InputError(f"{one} and {other} exclude each other: give one of them")
    return found
