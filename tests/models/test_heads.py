from __future__ import annotations

from typing import Any

import pytest

from tl_jax.models.heads import classifier


@pytest.mark.parametrize(
    ("config", "dropout"),
    [
        ({"hidden_dropout_prob": 0.1, "classifier_dropout": 0.3}, 0.3),
        ({"hidden_dropout_prob": 0.1, "classifier_dropout": 0.0}, 0.0),
        ({"hidden_dropout_prob": 0.1, "classifier_dropout": None}, 0.1),
        ({"hidden_dropout_prob": 0.1}, 0.1),
        ({"seq_classif_dropout": 0.4}, 0.4),
        ({"hidden_dropout_prob": 0.1, "model_type": "bert"}, 0.1),
        ({"hidden_dropout_prob": 0.1, "model_type": "vit"}, 0.0),
        ({}, 0.0),
    ],
)
def test_dropout_is_that_of_transformers(config: dict[str, Any], dropout: float) -> None:
    head = classifier(3, config)
    assert head.name == "head" and head.module.labels == 3
    assert head.module.dropout == dropout
