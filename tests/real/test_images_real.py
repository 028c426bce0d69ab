"""Real images: the data sets as they lie, and a small random ViT whose probe beats chance on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tl_jax as tl
from tests import images as files
from tl_jax import data as data_room

SETS = {
    "i_flowers5/flowers5_64.npz": ({"train": 500, "test": 250}, 5),
    "i_cifar10_sample/cifar10_sample.npz": ({"train": 1000, "test": 1000}, 10),
    "i_brain_mri64/brain_mri64.npz": ({"train": 2870, "test": 394}, 4),
    "i_digits_mnist_usps/mnist_t10k_usps.npz:usps": ({"train": 7291, "test": 2007}, 10),
    "i_digits_mnist_usps/mnist_t10k_usps.npz:mnist": ({"train": 10000}, 10),
    "i_pacs64/pacs64.npz:art_painting": ({"train": 336}, 7),
}


@pytest.mark.parametrize("name", SETS)
def test_the_sets_are_read_as_they_lie(name: str, data: Path) -> None:
    counts, classes = SETS[name]
    splits = data_room.open(data / name)
    assert {split: len(part) for split, part in splits.items()} == counts
    columns = data_room.infer_image_columns(splits["train"])
    labels = data_room.class_names(data_room.label_texts(splits["train"], columns.label))
    assert len(labels) == classes
    picture = splits["train"].column("image")[0].open()
    assert picture.mode == "RGB" and np.asarray(picture).std() > 0


def test_a_probe_of_a_random_vit_on_flowers(data: Path, tmp_path: Path) -> None:
    """Even random layers tell flowers apart better than chance, by colour; and all 250 are scored, once each."""
    model = files.write_vit(tmp_path / "vit", hidden_size=48, image_size=32, patch_size=8, initializer_range=0.05)
    run = tl.finetune(
        model, data / "i_flowers5" / "flowers5_64.npz", method="probe:at=auto", out=tmp_path / "run", quiet=True
    )
    assert run.metrics["accuracy"] > 0.35
    assert sum(row["support"] for row in run.metrics["per_class"].values()) == 250
    again = tl.open_run(tmp_path / "run", say=lambda text: None).evaluate()
    assert again["accuracy"] == run.metrics["accuracy"]
