"""Files of torch as its tests make and read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tl_jax.errors import InputError
from tl_jax.pretrained.torch_files import Tensors

CONTAINERS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
MIB = 1 << 20


def save(value: Any, path: Path, zipped: bool = True, **options: Any) -> Path:
    import torch

    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def bits(torchs: Any) -> bytes:
    import torch

    flat = torch.empty(torchs.shape, dtype=torchs.dtype).copy_(torchs.detach()).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        dict(Tensors([path]))
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 600
    return message
