"""Fine-tunes a pretrained model on labelled examples and keeps everything about it in a run folder.

Examples:

  tl-jax finetune --model sentence-transformers/all-MiniLM-L6-v2 --data tickets.csv
  tl-jax finetune --model ./minilm --data train.csv --eval-data test.csv --method lora:rank=8 --out runs/tickets
  tl-jax finetune experiments/sentiment.py --seed 1
  tl-jax finetune --resume --out runs/tickets
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from tl_jax.cli import console, flags
from tl_jax.errors import InputError
from tl_jax.experiment import Experiment

HELP = "fine-tune a pretrained model on your examples"
SWITCHES = ("--resume", "--overwrite", "--dry-run")
FIELDS = tuple(
    flag.name
    for heading in ("model and data", "training", "run")
    for flag in flags.TABLE[heading]
    if flag.name not in SWITCHES
)
TAKES = (*FIELDS, *SWITCHES, "--verbose")
REPLACES = {"epochs": "steps", "shots": "fraction", "fraction": "shots"}  # a flag, and what it sets aside in a file


def describe(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT",
        help="an experiments/*.py file, or the experiment.json of a run; flags given beside it override it",
    )
    flags.add(parser, TAKES, defaults={field.name: field.default for field in dataclasses.fields(Experiment)})


def run(args: argparse.Namespace) -> int:
    """Trains, or with `--dry-run` prints the plan."""
    switches = flags.given(args, SWITCHES)
    experiment = _experiment(args.experiment, flags.given(args, FIELDS), resume="resume" in switches)
    console.say(f"tl-jax: {experiment.model} on {experiment.data}; loading JAX")
    from tl_jax.finetuning import finetune
    from tl_jax.training.loop import Interrupted

    try:
        outcome = finetune(experiment, **switches)
    except Interrupted as stop:
        raise KeyboardInterrupt(f"{stop}; {console.goes_on(switches)}") from stop
    if "dry_run" in switches:
        print(outcome)
        return 0
    console.say(_scored_on(outcome))
    print(console.scores(outcome.metrics))
    folder = shlex.quote(str(outcome.folder))
    print("next:")
    print(f"  tl-jax predict {folder} " + ("PICTURE.jpg" if outcome.role == "image" else '"a text of yours"'))
    print(f"  tl-jax evaluate {folder} --data FILE")
    print(
        f"  tl-jax finetune {folder}/experiment.json --seed {experiment.seed + 1} --out {folder}-{experiment.seed + 1}"
    )
    return 0


def _scored_on(outcome: Any) -> str:
    """Which examples the figures are of: those that chose the best checkpoint flatter it."""
    name = outcome.summary["scored_on"]
    count = outcome.manifest["data"]["examples"].get(name, 0)
    if name == "validation" and outcome.summary["steps"]:
        return f"scored on the {count:,} validation examples, which also chose the best step: --eval-data is fairer"
    kind = "validation" if name == "validation" else "evaluation"
    return f"scored on the {count:,} {kind} examples" if name else "nothing was held out to score on"


def _experiment(source: str | Path | None, wanted: dict[str, Any], *, resume: bool) -> Experiment:
    """The experiment of the file `source`, if there is one, with what the flags want in its place.

    A run that goes on needs no more than its folder.
    """
    missing = [name for name in ("--model", "--data") if name[2:] not in wanted]
    if source is None and missing and resume:
        if "out" not in wanted:
            raise InputError("--resume goes on with the run in --out: name its folder")
        from tl_jax.run_folder import existing_run

        source = existing_run(wanted["out"]).path
    if source is not None:
        for flag, other in REPLACES.items():
            if flag in wanted:
                wanted[other] = None
        return dataclasses.replace(Experiment.load(source), **wanted)
    if missing:
        what = "both" if missing[1:] else "it"
        raise InputError(f"{' and '.join(missing)} missing: give {what}, or an experiment file")
    return Experiment(**wanted)
