"""Writes the model of a run as a folder that transformers or sentence-transformers loads, adapters merged.

Examples:

  tl-jax export runs/tickets exported/
  tl-jax export runs/tickets exported/ --format hf

Without --format it is the one that can hold the head: `hf` for a language model, a classifier of images and one over
an encoder's own pooler (--pooling pooler); `sentence-transformers` for one of texts over mean, cls or last pooling,
which no class of transformers describes.
"""

from __future__ import annotations

import argparse

from tl_jax.cli import console, flags
from tl_jax.cli.values import one_of

HELP = "write a run's model as a Hugging Face folder"
FORMATS = ("hf", "sentence-transformers")  # those of `pretrained.saving`, which is not imported for --help
WRITTEN = {"--format": "the form of the folder", "--overwrite": "replace the model in DST"}
CHOICES = ("--format", "--overwrite")
TAKES = ("--model", *CHOICES, "--verbose")


def describe(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run_folder", metavar="RUN", help="the run's folder")
    parser.add_argument("folder", metavar="DST", help="the folder to write")
    flags.add(
        parser,
        TAKES,
        defaults={"model": "where the run found them", "format": f"{' or '.join(FORMATS)}; the one that fits"},
        read={"--format": one_of(*FORMATS)},
        words=WRITTEN,
    )


def run(args: argparse.Namespace) -> int:
    """Exports and prints the folder."""
    console.say(f"tl-jax: exporting {args.run_folder}; loading JAX")
    from tl_jax.run import open_run

    opened = open_run(args.run_folder, model=getattr(args, "model", None), say=console.say)
    with console.writing(args.folder):
        print(opened.export(args.folder, **flags.given(args, CHOICES)))
    return 0
