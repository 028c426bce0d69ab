"""Writes pretrained weights anew: a Hugging Face folder with safetensors, its names and its tokenizer kept.

Examples:

  tl-jax convert bert-base-uncased converted/
  tl-jax convert downloaded/ converted/ --dtype bfloat16 --max-shard-size 2GB

The tensors keep the names they were read under, and those that belong to other heads are carried over. They are read
one at a time: a model larger than memory is converted, too.
"""

from __future__ import annotations

import argparse

from tl_jax.cli import console, flags
from tl_jax.cli.export import FORMATS, WRITTEN
from tl_jax.cli.values import one_of

HELP = "write pretrained weights as another folder"
CHOICES = ("--pooling", "--dtype", "--max-shard-size", "--format", "--overwrite")
TAKES = (*CHOICES, "--verbose")


def describe(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("source", metavar="SRC", help="a folder, or a name on the Hugging Face hub")
    parser.add_argument("folder", metavar="DST", help="the folder to write")
    flags.add(
        parser,
        TAKES,
        defaults={"format": f"{' or '.join(FORMATS)}; the one that fits"},
        read={"--format": one_of(*FORMATS)},
        words=WRITTEN,
    )


def run(args: argparse.Namespace) -> int:
    """Converts and prints the folder."""
    console.say(f"tl-jax: converting {args.source}; loading JAX")
    from tl_jax import pretrained

    with console.writing(args.folder):
        print(pretrained.convert(args.source, args.folder, **flags.given(args, CHOICES)))
    return 0
