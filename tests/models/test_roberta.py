"""What is read of a RoBERTa's config.json, and where its positions start; `test_encoders.py` has what is computed."""

from __future__ import annotations

import numpy as np
import pytest

from tests import chains
from tests.models.test_bert import RAW
from tl_jax.errors import InputError
from tl_jax.models.roberta import CONFIG, NAMES, RobertaConfig, stages


@pytest.mark.parametrize("kind", ["RobertaConfig", "XLMRobertaConfig", "CamembertConfig"])
def test_the_defaults_are_transformers(kind):
    import transformers

    assert CONFIG(RAW) == CONFIG(getattr(transformers, kind)(**RAW).to_dict())


def test_a_text_has_the_positions_that_padding_leaves():
    config = CONFIG(RAW | {"max_position_embeddings": 514})
    assert isinstance(config, RobertaConfig) and (config.first_position, config.positions) == (2, 512)
    assert CONFIG(RAW | {"max_position_embeddings": 514, "pad_token_id": 0}).positions == 513


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"max_position_embeddings": 2},
            "max_position_embeddings 2 leaves no position .* pad_token_id 1 are padding's",
        ),
        ({"is_decoder": True}, "a RoBERTa decoder"),
        ({"vocab_size": None}, "of a RoBERTa must have the numbers vocab_size"),
    ],
)
def test_configs_that_are_no_roberta_of_ours(change, said):
    with pytest.raises(InputError, match=said):
        CONFIG(RAW | change)


def test_positions_start_behind_the_pad_tokens(rng):
    """The rows of the table up to the pad token's are never read, nor are those behind the longest text's."""
    model = chains.roberta(pad_token_id=3)
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    length = inputs["tokens"].shape[1]
    table = np.array(variables["params"]["embeddings"]["position"]["embedding"])
    table[:4] = table[4 + length :] = np.nan
    variables["params"]["embeddings"]["position"]["embedding"] = table
    assert np.isfinite(model.apply(variables, inputs)["logits"]).all()
    table[4] = np.nan
    assert np.isnan(model.apply(variables, inputs)["logits"]).any()


@pytest.mark.parametrize(("said", "rate"), [({"classifier_dropout": 0.3}, 0.3), ({"hidden_dropout_prob": 0.2}, 0.2)])
def test_the_classifiers_dropout_lies_below_both_of_its_layers(said, rate):
    assert stages(CONFIG(RAW | said), "pooler")[-1].module.dropout == rate


@pytest.mark.parametrize(
    ("text", "ours"),
    [("roberta.encoder.layer.3", "layers_3"), ("classifier.out_proj", "head"), ("classifier.dense", "pooler/dense")],
)
def test_alias_understands_the_classifier(text, ours):
    assert NAMES.alias(text) == ours
