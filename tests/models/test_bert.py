"""What is read of a BERT's config.json; `test_encoders.py` has what is computed."""

from __future__ import annotations

import pytest

from tl_jax.errors import InputError
from tl_jax.models.bert import CONFIG, BertConfig

RAW = {
    "vocab_size": 13,
    "hidden_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 7,
}


def test_the_config_reads_what_it_knows_and_leaves_the_rest():
    raw = RAW | {"hidden_act": "relu", "layer_norm_eps": 1e-5, "classifier_dropout": None, "model_type": "bert"}
    assert CONFIG(raw) == BertConfig(13, 6, 1, 3, 7, hidden_act="relu", layer_norm_eps=1e-5)


def test_the_defaults_are_transformers():
    from transformers import BertConfig as Config

    reference = Config(**RAW).to_dict()
    assert CONFIG(RAW) == CONFIG(reference)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": None, "hidden_size": None}, "must have the numbers vocab_size, hidden_size$"),
        ({"hidden_size": "6"}, "hidden_size must be a whole number from 1 to .*, not '6'"),
        ({"num_attention_heads": 4}, "hidden_size 6 is not divisible by num_attention_heads 4"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"is_decoder": True}, "a BERT decoder"),
        ({"add_cross_attention": True}, "a BERT decoder"),
        ({"hidden_act": "gelu_ne"}, "unknown activation 'gelu_ne'; did you mean 'gelu_new'"),
    ],
)
def test_configs_that_are_no_bert_of_ours(change, said):
    with pytest.raises(InputError, match=said):
        CONFIG(RAW | change)
