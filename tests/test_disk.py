"""What is synced is on disk; a folder that cannot be is no fault, a file that cannot be is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tl_jax.disk import sync


def test_files_must_and_folders_need_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    seen: list[int] = []
    monkeypatch.setattr(os, "fsync", seen.append)
    sync(tmp_path)
    sync(tmp_path / "file")
    assert len(seen) == 2

    def refuse(descriptor: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")
