"""Compares ways to transfer with each other and with no transfer at all, on your own labelled examples.

Every method is run at every size with every seed; what is finished is kept, and --resume goes on. Printed are the
scores with their 95 % intervals, what they show in words, and where the curve lies as a picture.

Examples:

  tl-jax compare --model sentence-transformers/all-MiniLM-L6-v2 --data tickets.csv
  tl-jax compare --model ./minilm --data train.csv --eval-data test.csv --methods scratch,probe,full --shots 8,32,all
  tl-jax compare --model ./minilm --data train.csv --resume --seeds 5
"""

from __future__ import annotations

import argparse
import dataclasses

from tl_jax.analysis.grid import METHODS, SEEDS, SHOTS
from tl_jax.cli import console, flags
from tl_jax.errors import InputError
from tl_jax.experiment import Experiment

HELP = "compare methods, and what the transfer bought you"
SWITCHES = ("--resume", "--overwrite", "--dry-run")
OWN = ("--methods", "--shots", "--seeds")
_OF_CELLS = ("--method", "--seed", "--fraction")
SHARED = tuple(
    flag.name
    for heading in ("model and data", "training", "run")
    for flag in flags.TABLE[heading]
    if flag.name not in (*_OF_CELLS, *OWN, *SWITCHES)
)
TAKES = (*SHARED, *OWN, *SWITCHES, "--verbose")

WORDS = {
    "--shots": "training examples of each label, separated by commas; all is all of them",
    "--lr": "the highest learning rate of every method but scratch, which chooses its own",
    "--out": "the comparison's folder",
    "--resume": "go on with the comparison in --out; more methods, sizes or seeds may be asked for",
    "--overwrite": "replace the comparison in --out",
    "--dry-run": "print the plans, and stop before training",
}


def describe(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    shared = {field.name: field.default for field in dataclasses.fields(Experiment)}
    own = {"methods": METHODS, "shots": SHOTS, "seeds": SEEDS, "out": "runs/<data>-compare"}
    flags.add(parser, TAKES, defaults={**shared, **own}, read={"--shots": str}, words=WORDS)


def run(args: argparse.Namespace) -> int:
    """Compares, or with `--dry-run` prints the plans."""
    switches = flags.given(args, SWITCHES)
    wanted = flags.given(args, (*SHARED, *OWN))
    if missing := [name for name in ("--model", "--data") if name[2:] not in wanted]:
        raise InputError(f"{' and '.join(missing)} missing: give {'both' if missing[1:] else 'it'}")
    console.say(f"tl-jax: comparing on {wanted['data']}; loading JAX")
    from tl_jax.analysis.comparison import compare
    from tl_jax.training.loop import Interrupted

    try:
        outcome = compare(**wanted, **switches)
    except Interrupted as stop:
        raise KeyboardInterrupt(f"{stop}; {console.goes_on(switches)}") from stop
    print(outcome)
    if "dry_run" not in switches:
        print(f"\nthe curve: {outcome.picture}")
    return 0
