"""What is read of a DistilBERT's config.json; `test_encoders.py` has what is computed."""

from __future__ import annotations

import pytest

from tl_jax.errors import InputError
from tl_jax.models.distilbert import CONFIG, NAMES, DistilbertConfig, stages

RAW = {"vocab_size": 13, "dim": 6, "n_layers": 1, "n_heads": 3, "hidden_dim": 7}


def test_the_config_reads_what_it_knows_and_leaves_the_rest():
    raw = RAW | {"activation": "relu", "sinusoidal_pos_embds": True, "dropout": None, "tie_weights_": True}
    assert CONFIG(raw) == DistilbertConfig(13, 6, 1, 3, 7, activation="relu")


def test_the_defaults_are_transformers():
    from transformers import DistilBertConfig

    assert CONFIG(RAW) == CONFIG(DistilBertConfig(**RAW).to_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dim": None, "hidden_dim": None}, "of a DistilBERT must have the numbers dim, hidden_dim$"),
        ({"hidden_dim": "7"}, "hidden_dim must be a whole number from 1 to .*, not '7'"),
        ({"n_heads": 4}, "dim 6 is not divisible by n_heads 4"),
        ({"activation": "gelu_ne"}, "unknown activation 'gelu_ne'; did you mean 'gelu_new'"),
    ],
)
def test_configs_that_are_no_distilbert_of_ours(change, said):
    with pytest.raises(InputError, match=said):
        CONFIG(RAW | change)


def test_dropout_lies_where_transformers_has_it():
    embeddings, layer, pooler = (
        s.module for s in stages(CONFIG(RAW | {"dropout": 0.3, "attention_dropout": 0.4}), "cls")
    )
    assert (embeddings.dropout, layer.mlp_dropout, layer.attention_dropout) == (0.3, 0.3, 0.4)
    assert (layer.out_dropout, pooler.dropout) == (0, 0)


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("distilbert.transformer.layer.3", "layers_3"),
        ("q_lin", "layers_i/attention/query"),
        ("ffn.lin1", "layers_i/mlp/up"),
        ("pre_classifier", "pooler/dense"),
        ("classifier", "head"),
    ],
)
def test_alias_understands_its_words(text, ours):
    assert NAMES.alias(text) == ours
