"""The entry of `tl-jax`: finds the command, runs it, and turns what went wrong into a message and an exit code.

Exit codes: 0 done; 2 the user's input; 130 interrupted; 1 a fault of ours, with its traceback.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from tl_jax import __version__
from tl_jax.cli import compare, console, convert, evaluate, export, finetune, foreign, inspect, predict, verify
from tl_jax.errors import InputError, did_you_mean

OURS, INPUT, INTERRUPTED = 1, 2, 130

# A command is a module with HELP (one line), TAKES (its flags), describe(parser) and run(args) -> exit code.
COMMANDS = {
    "finetune": finetune,
    "compare": compare,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "inspect": inspect,
    "convert": convert,
    "verify": verify,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; help and version end in `SystemExit`, as argparse does.

    Args:
        argv: the arguments without the program's name; None takes the process's own.
    """
    if hasattr(sys.stdout, "reconfigure"):  # what it cannot encode, such as a file's name in Latin-1, is no fault
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # here, where a closed pipe is still caught
    except InputError as error:
        console.say(f"error: {error}")
        return INPUT
    except KeyboardInterrupt as stop:
        console.say(str(stop) or "interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone; Python must not try to flush again when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        console.say("error: this is a fault of tl-jax, not of what you gave it; the lines above say where")
        return OURS


def _run(argv: list[str]) -> int:
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name not in COMMANDS:
        if name in ("-h", "--help", "--version"):
            _top().parse_args([name])
        if name.startswith("-"):
            raise InputError(f"{name} stands where a command is expected: {', '.join(COMMANDS)}")
        raise InputError(f"{name!r} is not a command{did_you_mean(name, COMMANDS)}")
    command = COMMANDS[name]
    refused = foreign.refusal(rest, name, command.TAKES)
    if refused:
        raise InputError(refused)
    parser = _Parser(
        prog=f"tl-jax {name}",
        description=command.__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.describe(parser)
    args = parser.parse_intermixed_args(rest)  # options may stand between a run and the texts
    if "verbose" not in args:
        console.quiet_platform()
    return command.run(args)


def _top() -> argparse.ArgumentParser:
    """The parser of what stands before a command: help and version."""
    parser = _Parser(prog="tl-jax", description="Transfer learning in JAX.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.HELP)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are the user's like any other, printed by `main`."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument ", "", message)
        message = re.sub(r": expected .*argument.*$", " needs a value", message)
        message = re.sub(r"^the following arguments are required: (.*)$", r"\1 is missing", message)
        message = re.sub(r"^unrecognized arguments: (.*)$", r"one argument too many: \1", message)
        raise InputError(f"{message} (`{self.prog} --help` shows what is expected)")
