from __future__ import annotations

from pathlib import Path

import pytest

from tl_jax.cache_folder import cache_folder


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_JAX_CACHE", "/mine")
    assert cache_folder() == Path("/mine")
    monkeypatch.delenv("TL_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/theirs")
    assert cache_folder() == Path("/theirs/tl_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "tl_jax"
