"""Weights that others trained and transformers does not read as they are: a Llama of llama2.c's, a CIFAR ResNet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tl_jax as tl
from tl_jax.pretrained import convert


def there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"no {path}")
    return path


def test_a_llama_of_meta_s_files_by_the_folder_that_is_made_of_it(data: Path, tmp_path: Path) -> None:
    stories = there(data / "w_stories260k_llama")
    out = tmp_path / "certificate"
    assert tl.verify(stories, out=out).against == "structure"
    found = tl.verify(convert(stories, tmp_path / "hf"), out=out)
    assert (found.against, found.passed, found.failure) == ("reference", True, "")
    assert found.stages[0].name == "tokenizer" and found.stages[-1].writes == "logits"
    again = tl.verify(stories, out=out)
    assert (again.against, again.passed) == ("golden", True) and again.stages[0].error == 0.0


def test_a_llama_that_lost_a_number_is_found(data: Path, tmp_path: Path) -> None:
    from tl_jax.pretrained import weights
    from tl_jax.pretrained.safetensors_files import SINGLE, write

    folder = convert(there(data / "w_stories260k_llama"), tmp_path / "hf")
    assert tl.verify(folder).passed
    spoilt = Path(shutil.copytree(folder, tmp_path / "spoilt"))
    tensors = dict(weights.read(spoilt))
    tensors["model.layers.2.mlp.up_proj.weight"][3, 5] += 0.5
    write(spoilt / SINGLE, tensors)
    found = tl.verify(spoilt, against="golden")
    assert found.first_off.name == "layers_2" and found.first_off.error > found.first_off.bound
    assert found.first_off.faults == ("layers_2/mlp/up/kernel has changed since the certificate",)


@pytest.mark.parametrize("file", ["resnet20-12fca82f.th", "resnet56.safetensors"])
def test_a_cifar_resnet_is_checked_by_structure(data: Path, file: str) -> None:
    found = tl.verify(there(data / "w_cifar_resnet" / file))
    assert (found.against, found.passed) == ("structure", True)
    assert "transformers has no class that computes a cifar_resnet" in found.said
