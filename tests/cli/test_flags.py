"""The table of flags: one name each, only what was given comes through, and help shows the experiment's defaults."""

from __future__ import annotations

import argparse
import dataclasses
import re

import pytest

from tl_jax.cli import finetune, flags
from tl_jax.cli.main import COMMANDS
from tl_jax.errors import InputError
from tl_jax.experiment import Experiment


def parse(*argv: str, names: tuple[str, ...] = finetune.TAKES) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    flags.add(parser, names)
    return parser.parse_args(argv)


def test_names_are_unique() -> None:
    assert len(flags.FLAGS) == sum(map(len, flags.TABLE.values()))


def test_commands_take_flags_of_the_table() -> None:
    for command in COMMANDS.values():
        assert set(command.TAKES) <= set(flags.FLAGS)
        assert len(set(command.TAKES)) == len(command.TAKES)


def test_finetune_and_experiment_agree() -> None:
    assert {flags.FLAGS[name].field for name in finetune.FIELDS} == {f.name for f in dataclasses.fields(Experiment)}


def test_nothing_given_nothing_parsed() -> None:
    assert vars(parse()) == {}


def test_given_flags_come_through_by_field() -> None:
    args = parse("--batch-size", "16", "--fraction", "10%", "--lr=3e-5", "--dry-run")
    assert vars(args) == {"batch_size": 16, "fraction": 0.1, "lr": 3e-5, "dry_run": True}
    assert flags.given(args, ("--lr", "--seed")) == {"lr": 3e-5}


@pytest.mark.parametrize(("one", "other"), flags.EXCLUSIVE)
def test_exclusive_flags(one: str, other: str) -> None:
    argv = [word for name in (one, other) for word in ([name, "1"] if flags.FLAGS[name].read else [name])]
    with pytest.raises(InputError, match=f"{one} and {other} exclude each other"):
        flags.given(parse(*argv), finetune.TAKES)


def test_help_shows_the_defaults_of_the_experiment() -> None:
    parser = argparse.ArgumentParser(formatter_class=lambda prog: argparse.HelpFormatter(prog, width=200))
    finetune.describe(parser)
    shown = dict(re.findall(r"^  --([\w-]+) .*\(default: (.*)\)$", parser.format_help(), re.MULTILINE))
    for field in dataclasses.fields(Experiment):
        if field.default is not None and field.default is not False:
            assert shown[field.name.replace("_", "-")] == str(field.default)
    assert shown["out"] == "runs/<data>-<method>"  # worked out, so said in words
    assert shown["text-column"] == "inferred, printed"


@pytest.mark.parametrize("name", ["--task", "--pooling", "--optimizer", "--schedule", "--precision"])
def test_help_lists_the_words_that_the_experiment_knows(name: str) -> None:
    with pytest.raises(InputError) as refused:
        Experiment(**{flags.FLAGS[name].field: "?"})
    known = str(refused.value).partition("choose from ")[2].split(", ")
    assert known != [""]
    assert flags.FLAGS[name].help.partition(": ")[2].split(", ") == known
