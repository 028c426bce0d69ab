"""`tl-jax export`: what reaches the run, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tl_jax.cli import export
from tl_jax.cli.main import main


def test_what_was_given_reaches_the_run(behind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("export runs/x out".split()) == 0
    assert main("export runs/x out --format hf --overwrite --model moved".split()) == 0
    assert behind.opened == [("runs/x", None), ("runs/x", "moved")]
    assert behind.exported == [("out", {}), ("out", {"format": "hf", "overwrite": True})]
    assert capsys.readouterr().out == "out\nout\n"


def test_what_the_disk_refuses_is_the_users_to_mend(
    behind: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(behind), "export", full, raising=False)
    assert main("export runs/x out".split()) == 2
    assert capsys.readouterr().err.endswith("error: out was not written: [Errno 28] No space left on device\n")


def test_the_forms_are_those_that_are_written() -> None:
    from tl_jax.pretrained import saving

    assert export.FORMATS == saving.FORMATS


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export runs/x", "error: DST is missing"),
        (
            "export runs/x out --format onnx",
            "error: --format: 'onnx' is not known; choose from hf, sentence-transformers",
        ),
    ],
)
def test_mistakes(behind: Any, capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr().err.startswith(said)
    assert not behind.exported
