from __future__ import annotations

import numpy as np
import pytest

from tests import chains
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.deit import HEADS
from tl_jax.pretrained import ImageProcessor
from tl_jax.tasks import ImageClassification, TextClassification, task_class

LABELS = ("a", "b", "c")


def test_the_registry_holds_it_and_it_is_another_than_that_of_texts() -> None:
    assert task_class("image_classification") is ImageClassification
    assert ImageClassification(LABELS) == ImageClassification(LABELS) != TextClassification(LABELS)
    assert (ImageClassification.reads, TextClassification.reads) == ("image", "tokens")


def test_two_heads_of_a_distilled_model_are_replaced_by_one(rng: np.random.Generator) -> None:
    deit = chains.deit()
    distilled = deit.attach(HEADS["ForImageClassificationWithTeacher"](5, {}), at="head")
    variables = chains.variables(distilled, rng)
    assert {*variables["params"]["head"]} == {"kernel", "bias", "distillation"}
    task = ImageClassification(LABELS)
    attached = task.attach(distilled)
    assert attached.stages[-1].reads == deit.stages[-1].reads and attached.info.labels == LABELS
    assert "head" not in task.without_old_head(distilled, variables)["params"]


def test_a_network_of_ones_own_learns_of_its_processor_how_large_images_are() -> None:
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, image):  # type: ignore[no-untyped-def]
            return nn.Dense(4)(image.reshape(len(image), -1))

    processor = ImageProcessor({"size": {"height": 4, "width": 6}})
    model = Model.from_linen(Net(), writes="pooled", processor=processor)
    with pytest.raises(InputError, match="shapes of image cannot be guessed"):
        model.shapes()
    assert ImageClassification(LABELS).attach(model).shapes()["params"]["Dense_0"]["kernel"].shape == (72, 4)


def test_a_model_without_pooled_is_refused() -> None:
    model = chains.vit()
    with pytest.raises(InputError, match="image classification needs a model that writes pooled"):
        ImageClassification(LABELS).attach(Model(model.stages[:2], inputs=("image",)))
    with pytest.raises(InputError, match=r"no labels yet: ImageClassification\(labels="):
        ImageClassification().attach(model)
