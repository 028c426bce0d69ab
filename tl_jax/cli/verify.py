"""Checks that a model computes what it should: each stage beside transformers, or beside what was kept from before.

Examples:

  tl-jax verify sentence-transformers/all-MiniLM-L6-v2 --out certificates/
  tl-jax verify exported/
  tl-jax verify exported/ --against golden

Where torch and transformers are installed, they compute the same inputs in a process of their own, and a certificate is
written with the outputs. Elsewhere, and for what transformers does not read (a CIFAR ResNet, a file alone, a Llama
under Meta's names), those outputs are compared with, if there are any, or the structure alone is checked. The exit code
is 2 for a model that is off, and the first stage that is off is named.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from tl_jax.cli import console, flags
from tl_jax.cli.values import one_of

HELP = "compare a model, stage by stage, with its reference"
AGAINST = ("reference", "golden", "structure")  # those of `verification.checking`, which is not imported for --help
CHOICES = ("--against", "--pooling", "--out")
TAKES = (*CHOICES, "--format", "--verbose")


def describe(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a folder, or a name on the Hugging Face hub")
    flags.add(
        parser,
        TAKES,
        defaults={"format": "table, or json", "out": "MODEL's own folder"},
        read={"--format": one_of("table", "json"), "--against": one_of(*AGAINST)},
        words={"--out": "the folder of the certificate"},
    )


def run(args: argparse.Namespace) -> int:
    """Verifies, prints what was found, and says what is off."""
    console.say(f"tl-jax: verifying {args.model}; loading JAX")
    from tl_jax.verification.checking import verify

    found = verify(args.model, say=console.say, **flags.given(args, CHOICES))
    as_json = getattr(args, "format", "table") == "json"
    content = {"passed": found.passed, **dataclasses.asdict(found)}
    print(json.dumps(content, indent=2, default=str) if as_json else found)
    if not found.passed:
        console.say(f"error: {found.failure}")
        return 2
    return 0
