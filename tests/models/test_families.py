from __future__ import annotations

import pytest

from tl_jax.errors import InputError
from tl_jax.models.families import FAMILIES, class_name, family


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_offers_what_loading_needs(model_type: str) -> None:
    architecture = family(model_type)
    assert callable(architecture.CONFIG) and callable(architecture.stages)
    assert architecture.NAMES.entries and architecture.NAMES.classifier
    assert architecture.NAMES.prefixes  # what a classifier's backbone is written under


def test_classes_are_those_of_transformers() -> None:
    import transformers

    assert class_name("bert", "Model") == "BertModel"
    for model_type in FAMILIES:
        classifier, *_ = getattr(family(model_type), "CLASSIFIER", ("ForSequenceClassification",))
        for kind in ("Model", classifier):
            assert getattr(transformers, class_name(model_type, kind)).config_class.model_type == model_type


def test_an_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'gpt9' are not supported; those that are: .*bert"):
        family("gpt9")
