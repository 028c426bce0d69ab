"""The entry: which command runs, what its end is called, and what is printed about it."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tl_jax import __version__
from tl_jax.cli import main as entry
from tl_jax.cli.main import main
from tl_jax.errors import InputError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A command `fake` that ends as the test says: `outcome` is an exit code or an exception."""
    fake = SimpleNamespace(HELP="nothing", __doc__="Nothing.", TAKES=("--verbose",), describe=lambda parser: None)

    def run(args: argparse.Namespace) -> int:
        if isinstance(fake.outcome, BaseException):
            raise fake.outcome
        return int(fake.outcome)

    fake.run = run
    monkeypatch.setitem(entry.COMMANDS, "fake", fake)
    return fake


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (0, 0, ""),
        (InputError("no file 'x'"), 2, "error: no file 'x'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("stopped after step 4"), 130, "stopped after step 4\n"),
    ],
)
def test_exit_codes(
    command: SimpleNamespace, capsys: pytest.CaptureFixture[str], outcome: Any, code: int, said: str
) -> None:
    command.outcome = outcome
    assert main(["fake"]) == code
    assert capsys.readouterr() == ("", said)


def test_a_fault_of_ours_shows_where(command: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    command.outcome = ZeroDivisionError("seven by nought")
    assert main(["fake"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "ZeroDivisionError: seven by nought" in said
    assert "a fault of tl-jax" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fintune --lr 3", "error: 'fintune' is not a command; did you mean 'finetune'?"),
        (
            "--model x",
            "error: --model stands where a command is expected: finetune, compare, evaluate, predict, export",
        ),
        ("finetune --learning_rate 3e-5", "error: --learning_rate is --lr here"),
        ("finetune --lr", "error: --lr needs a value (`tl-jax finetune --help` shows what is expected)"),
        ("finetune --lr x", "error: --lr: 'x' is not a number from 0 up ("),
        ("finetune --lr x --epochs", "error: --lr: 'x' is not a number from 0 up ("),
        ("finetune a.py b.py", "error: one argument too many: b.py ("),
        ("evaluate", "error: RUN is missing ("),
        ("evaluate runs/x --format xml", "error: --format: 'xml' is not known; choose from table, json ("),
    ],
)
def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_nothing_asked_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 0
    assert "finetune" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(entry.COMMANDS))
def test_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert re.search(rf"^ +{name}  ", capsys.readouterr().out, re.MULTILINE)
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in entry.COMMANDS[name].TAKES)


def test_version_is_one() -> None:
    printed = subprocess.run([sys.executable, "-m", "tl_jax", "--version"], capture_output=True, text=True, check=True)
    assert printed.stdout == f"tl-jax {__version__}\n"


def test_platform_noise_is_silenced_unless_asked_for(command: SimpleNamespace) -> None:
    code = (
        "import os, sys, warnings, types\n"
        "from tl_jax.cli import main\n"
        "fake = types.SimpleNamespace(HELP='', TAKES=('--verbose',))\n"
        "fake.describe = lambda parser: main.finetune.flags.add(parser, fake.TAKES)\n"
        "fake.run = lambda args: warnings.warn_explicit('noise', UserWarning, 'x.py', 1, 'orbax.checkpoint') or "
        "warnings.warn_explicit('ours', UserWarning, 'y.py', 1, 'tl_jax.run') or "
        "print(os.environ.get('TF_CPP_MIN_LOG_LEVEL')) or 0\n"
        "main.COMMANDS['fake'] = fake\n"
        "sys.exit(main.main(['fake', *sys.argv[1:]]))"
    )
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}

    def run(*argv: str) -> tuple[str, str]:
        process = subprocess.run(
            [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True, env=env
        )
        return process.stdout, process.stderr

    quiet, verbose = run(), run("--verbose")
    assert quiet[0] == "2\n" and "noise" not in quiet[1] and "ours" in quiet[1]
    assert verbose[0] == "None\n" and "noise" in verbose[1]


def test_a_reader_that_leaves_is_no_fault() -> None:
    code = (
        "import sys, types\n"
        "from tl_jax.cli import main\n"
        "fake = types.SimpleNamespace(HELP='', TAKES=(), describe=lambda parser: None)\n"
        "fake.run = lambda args: [print('line', n) for n in range(10**5)] and 0\n"
        "main.COMMANDS['fake'] = fake\n"
        "sys.exit(main.main(['fake']))"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stderr is not None
    assert writer.stdout.readline() == b"line 0\n"
    writer.stdout.close()
    assert writer.wait(60) == 130
    assert writer.stderr.read() == b""
    writer.stderr.close()
