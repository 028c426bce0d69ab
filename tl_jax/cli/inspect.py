"""Shows what a model is made of: its chain of stages, and every tensor with its shape, dtype and bytes.

Examples:

  tl-jax inspect sentence-transformers/all-MiniLM-L6-v2
  tl-jax inspect exported/ --format json

The paths are those that rules and `--method` parameters name. Numbers that are NaN or infinite are counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from tl_jax.cli import console, flags
from tl_jax.cli.values import one_of

HELP = "show the chain and the tensors of a model"
CHOICES = ("--pooling",)
TAKES = (*CHOICES, "--format", "--verbose")


def describe(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a folder, or a name on the Hugging Face hub")
    flags.add(parser, TAKES, defaults={"format": "table, or json"}, read={"--format": one_of("table", "json")})


def run(args: argparse.Namespace) -> int:
    """Loads the model and prints it."""
    console.say(f"tl-jax: inspecting {args.model}; loading JAX")
    from tl_jax.inspection import inspect
    from tl_jax.loading import load

    found = inspect(*load(args.model, **flags.given(args, CHOICES)))
    as_json = getattr(args, "format", "table") == "json"
    print(json.dumps(dataclasses.asdict(found), indent=2) if as_json else found)
    return 0
