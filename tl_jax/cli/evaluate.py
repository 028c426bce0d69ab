"""Scores a run on labelled examples: every example exactly once.

Examples:

  tl-jax evaluate runs/tickets
  tl-jax evaluate runs/tickets --data new.csv --format json
"""

from __future__ import annotations

import argparse

from tl_jax.cli import console, flags
from tl_jax.cli.values import one_of
from tl_jax.manifest import json_text

HELP = "score a run on labelled examples"
CHOICES = ("--data", "--split", "--text-column", "--image-column", "--label-column", "--batch-size", "--corrupt")
TAKES = ("--model", *CHOICES, "--format", "--verbose")


def describe(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run_folder", metavar="RUN", help="the run's folder")
    flags.add(
        parser,
        TAKES,
        defaults={
            "model": "where the run found them",
            "data": "what the run ended with: its evaluation data, else its validation split",
            "text_column": "the run's",
            "image_column": "the run's",
            "label_column": "the run's",
            "split": "test, or the only one",
            "batch_size": "the run's",
            "corrupt": "the run's",
            "format": "table, or json",
        },
        read={"--format": one_of("table", "json")},
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints the metrics."""
    console.say(f"tl-jax: evaluating {args.run_folder}; loading JAX")
    from tl_jax.run import open_run

    opened = open_run(args.run_folder, model=getattr(args, "model", None), say=console.say)
    metrics = opened.evaluate(**flags.given(args, CHOICES))
    as_json = getattr(args, "format", "table") == "json"
    print(json_text(metrics, indent=2) if as_json else console.scores(metrics))
    return 0
