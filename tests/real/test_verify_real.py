"""MiniLM as it lies on the hub is what transformers computes, and a number that is changed in it is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import tl_jax as tl
from tl_jax.pretrained import weights
from tl_jax.pretrained.safetensors_files import SINGLE, write
from tl_jax.verification import certificate


@pytest.fixture(scope="module")
def verified(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its certificate."""
    out = tmp_path_factory.mktemp("certificate")
    found = tl.verify(minilm, out=out)
    assert found.passed and found.against == "reference", found.failure
    stages = ["tokenizer", "embeddings", *(f"layers_{i}" for i in range(6)), "pooler"]
    assert [stage.name for stage in found.stages] == stages
    assert all(stage.error <= 1e-5 for stage in found.stages)
    return out


def test_it_is_what_transformers_computes_and_stays_so(minilm: Path, verified: Path) -> None:
    assert tl.verify(minilm, out=verified, against="golden").passed
    assert not (minilm / certificate.FILE).exists()


def test_one_number_of_ten_million_is_found(minilm: Path, verified: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in tl.pretrained.fingerprint(minilm):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(minilm / name, folder / name)
    tensors = dict(weights.read(folder))
    tensors["encoder.layer.3.intermediate.dense.weight"][7, 9] += np.float32(0.5)
    write(folder / SINGLE, tensors)
    found = tl.verify(folder, out=verified, against="golden")
    assert found.first_off.name == "layers_3" and found.first_off.error > found.first_off.bound
    assert found.first_off.faults == ("layers_3/mlp/up/kernel has changed since the certificate",)
    assert all(stage.passed for stage in found.stages[:5])
