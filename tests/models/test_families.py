from __future__ import annotations

import pytest

from tl_jax.errors import InputError
from tl_jax.models.families import FAMILIES, class_name, family, has_class, names, reads_images

# What a config.json says least, of families whose names depend on it.
SMALLEST = {"resnet": {}, "cifar_resnet": {"stem": "cifar", "shortcut": "padding"}}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_offers_what_loading_needs(model_type: str) -> None:
    architecture = family(model_type)
    known = names({"model_type": model_type, **SMALLEST.get(model_type, {})})
    assert callable(architecture.CONFIG) and callable(architecture.stages)
    assert known.entries and known.classifier
    assert known.prefixes  # what a classifier's backbone is written under
    if reads_images(model_type):
        assert architecture.CLASSIFIER[1] in architecture.POOLINGS


def test_classes_are_those_of_transformers() -> None:
    import transformers

    assert class_name("bert", "Model") == "BertModel"
    for model_type in filter(has_class, FAMILIES):
        classifier = family(model_type).CLASSIFIER[0] if reads_images(model_type) else "ForSequenceClassification"
        for kind in ("Model", classifier):
            assert getattr(transformers, class_name(model_type, kind)).config_class.model_type == model_type
    assert [model_type for model_type in FAMILIES if not has_class(model_type)] == ["cifar_resnet"]


def test_an_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'gpt9' are not supported; those that are: .*bert"):
        family("gpt9")
