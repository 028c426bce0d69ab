"""Arrays for the networks of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.own.networks import VOCABULARY


@pytest.fixture
def inputs(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "tokens": rng.integers(0, VOCABULARY, (4, 5), np.int32),
        "mask": np.arange(5) < np.array([5, 4, 3, 1])[:, None],
    }


@pytest.fixture
def image(rng: np.random.Generator) -> dict[str, Any]:
    return {"image": rng.normal(size=(4, 5, 5, 2)).astype(np.float32)}
