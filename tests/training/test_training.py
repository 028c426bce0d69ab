"""The room's own face."""

from __future__ import annotations

from pathlib import Path

import pytest

from tl_jax import training


def test_every_name_is_there_and_no_file_shadows_it() -> None:
    for name in training.__all__:
        assert getattr(training, name).__name__ == name
        assert not (Path(training.__path__[0]) / f"{name}.py").exists()
    assert set(training.__all__) <= set(dir(training))
    with pytest.raises(AttributeError, match="has no attribute 'trian_step'"):
        training.trian_step  # noqa: B018
