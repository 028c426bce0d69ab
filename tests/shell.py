"""`tl-jax` in this process: what it said, and that a refusal leaves every file as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import HEAD, Tiny
from tl_jax.cli.main import main

ONE_EPOCH = ["--method", HEAD, "--lr", "1e-2", "--epochs", "1", "--batch-size", "16"]


class Shell:
    """`tl-jax` in this process, with what it said."""

    def __init__(self, tiny: Tiny, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.tiny, self.folder, self._capsys = tiny, folder, capsys

    def __call__(self, *args: Any) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._capsys.readouterr()
        code = main([str(arg) for arg in args])
        return code, *self._capsys.readouterr()

    def refuses(self, *args: Any) -> str:
        """The message, of a command that must fail by the user's fault and leave every file as it is."""
        before = snapshot(self.folder)
        code, out, err = self(*args)
        assert (code, out) == (2, ""), (code, out, err)
        assert snapshot(self.folder) == before
        said = err.partition("error: ")[2]
        assert said and "Traceback" not in err and len(said) < 1200
        return said

    def finetune(self, *args: Any, data: Any = None, model: Any = None, out: str = "run") -> list[Any]:
        """The words of a fine-tune of the tiny model; `args` come last."""
        words = ["finetune", "--model", model or self.tiny.mean, "--data", data or self.tiny.train]
        return [*words, *ONE_EPOCH, "--out", self.folder / out, *args]


def snapshot(folder: Path) -> dict[str, Any]:
    """Every file with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
