from __future__ import annotations

import jax
import numpy as np

from tests.parallel.eight import on_eight
from tl_jax.parallel import ANYWHERE, place, place_again


def test_one_device_is_no_mesh() -> None:
    """So its bits are those of a run without: nothing is placed by name, the step itself is what runs."""
    variables = {"params": {"kernel": np.ones((2, 2), np.float32)}}
    for placement in (place(None, rows=3), place("data=1", rows=3), place("auto", rows=3), place_again("data=8")):
        assert placement == ANYWHERE and placement.facts() == {"mesh": None}
        assert placement.variables(variables)["params"]["kernel"] is variables["params"]["kernel"]
        assert placement.fed(jax.jit) is jax.jit


def test_on_eight_devices() -> None:
    found = on_eight("placements")
    assert found["again"] == {
        "data=4,fsdp=2": "data=4,fsdp=2",
        "fsdp=4": "fsdp=4",
        "data=16": "data=8",  # not to be had here
        "data=3": "data=8",
        "auto": "data=8",
        "data=1": None,
    }
    assert found["kept"] == [True, True]
    assert "fsdp" in found["cut"][0] and "tensor" in found["cut"][0]
