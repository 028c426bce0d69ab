"""CIFAR ResNets as their authors saved them in 2018, and as safetensors: golden outputs, and what they get right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests.parity import PARITY, assert_same_bits, relative
from tests.pretrained.conftest import outputs
from tl_jax.rules import paths

MEAN, STD = (np.array(given, np.float32) for given in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
FILES = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
RIGHT = {"resnet20": 915, "resnet56": 926}  # of 1,000 test images, by the README of the weights
PARAMETERS = {"resnet20": 269_722, "resnet56": 853_018}


def loaded(data: Path, file: str) -> Any:
    path = data / "w_cifar_resnet" / file
    if not path.is_file():
        pytest.skip(f"no {path}")
    return tl.load(path)


def prepared(images: np.ndarray) -> np.ndarray:
    """Bytes [B, 32, 32, 3] as the nets were trained on them."""
    return (images.astype(np.float32) / 255 - MEAN) / STD


@pytest.mark.parametrize("net", FILES)
@pytest.mark.parametrize("form", ["th", "safetensors"])
def test_golden_outputs(net: str, form: str, data: Path) -> None:
    model, variables = loaded(data, FILES[net] if form == "th" else f"{net}.safetensors")
    golden = np.load(data / "w_cifar_resnet" / "golden.npz")
    state = outputs(model, variables, {"image": prepared(golden["images_uint8_nhwc"])})
    errors = {
        "pooled": relative(state["pooled"], golden[f"{net}_features"]),
        "logits": relative(state["logits"], golden[f"{net}_logits"]),
    }
    print(net, form, errors)
    assert max(errors.values()) <= PARITY


@pytest.mark.parametrize("net", FILES)
def test_both_forms_hold_the_same_net(net: str, data: Path, tmp_path: Path) -> None:
    """And so does the folder that it is saved to, under the names it had."""
    model, variables = loaded(data, FILES[net])
    other, same = loaded(data, f"{net}.safetensors")
    assert model == other
    assert_same_bits(variables, same)
    assert sum(leaf.size for leaf in paths(variables["params"]).values()) == PARAMETERS[net]
    blocks = (int(net.removeprefix("resnet")) - 2) // 2
    assert model.names == ("stem", *(f"blocks_{i}" for i in range(blocks)), "pooler", "head")
    again, kept = tl.load(tl.save(tmp_path / "out", model, variables))
    assert again == model and again.info.names == model.info.names
    assert_same_bits(kept, variables)


@pytest.mark.parametrize("net", FILES)
def test_what_they_get_right(net: str, data: Path) -> None:
    model, variables = loaded(data, f"{net}.safetensors")
    path = data / "i_cifar10_sample" / "cifar10_sample.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    sample = np.load(path)
    images, labels = sample["test_images"], sample["test_labels"]
    inputs = model.processor(list(images))
    assert relative(inputs["image"], prepared(images)) < 1e-6
    logits = outputs(model, variables, inputs)["logits"]
    assert len(labels) == 1000 and int((np.asarray(logits).argmax(-1) == labels).sum()) == RIGHT[net]
