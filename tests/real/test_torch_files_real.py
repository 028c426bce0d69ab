"""Checkpoints saved with torch as it was in 2018: the older container, and DataParallel's names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tl_jax.pretrained import safetensors_files, torch_files


@pytest.mark.parametrize(
    ("checkpoint", "copy", "count", "parameters"),
    [
        ("resnet20-12fca82f.th", "resnet20.safetensors", 97, 269_722),
        ("resnet56-4bfd9763.th", "resnet56.safetensors", 277, 853_018),
    ],
)
def test_the_cifar_resnets_are_their_copies_in_safetensors(
    data: Path, checkpoint: str, copy: str, count: int, parameters: int
) -> None:
    folder = data / "w_cifar_resnet"
    for path in (folder / checkpoint, folder / copy):
        if not path.is_file():
            pytest.skip(f"no {path}")
    ours, theirs = torch_files.Tensors([folder / checkpoint]), safetensors_files.Tensors([folder / copy])
    assert set(ours) == set(theirs) and len(ours) == count
    learned = [spec for name, spec in ours.specs.items() if "running" not in name]
    assert sum(math.prod(spec.shape) for spec in learned) == parameters
    for name, array in theirs.items():
        assert ours.specs[name] == theirs.specs[name], name
        assert ours[name].tobytes() == array.tobytes(), name
