"""What is read of a config.json of the Llama line; `test_decoders.py` has what is computed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.decoders import TYPES
from tl_jax.errors import InputError
from tl_jax.models.decoder_layers import EVERYWHERE
from tl_jax.models.llama import CONFIG, NAMES, default_pooling, stages
from tl_jax.models.rotary import Rotary

RAW = {
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 12,
    "intermediate_size": 7,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
}


EVEN = {"low_freq_factor": 1, "high_freq_factor": 1}
ALTERNATING = ["sliding_attention", "full_attention"] * 2


def raw(model_type: str, **more):
    groups = {"num_key_value_heads": 3} if model_type != "llama" else {}
    return {**RAW, "model_type": model_type, **groups, **more}


@pytest.mark.parametrize("model_type", TYPES)
def test_the_defaults_are_transformers(model_type):
    import transformers

    said = raw(model_type)
    reference = transformers.AutoConfig.for_model(**said).to_dict()
    assert CONFIG(said) == CONFIG(reference)


@pytest.mark.parametrize("kind", ["default", "linear", "llama3"])
@pytest.mark.parametrize("base", [10.0, 500_000.0])
def test_frequencies_are_transformers(kind, base):
    import torch
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": kind, "rope_theta": base, "factor": 8.0}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    given = raw("llama", head_dim=64, rope_parameters=rope)
    theirs = LlamaRotaryEmbedding(transformers.AutoConfig.for_model(**given)).inv_freq.to(torch.float64).numpy()
    np.testing.assert_allclose(CONFIG(given).rotary.frequencies, theirs, rtol=3e-7)


def test_rotation_is_read_as_early_and_as_later_files_have_it():
    scaling = {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 64}
    early = raw("llama", rope_theta=5e5, rope_scaling={"rope_type": "llama3", **scaling})
    later = raw("llama", rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    assert CONFIG(early).rotary == CONFIG(later).rotary == Rotary(4, 5e5, "llama3", 8.0, 1.0, 4.0, 64)
    linear = raw("llama", rope_scaling={"type": "linear", "factor": 2})
    assert CONFIG(linear).rotary == Rotary(4, 1e4, "linear", 2.0)


@pytest.mark.parametrize(
    ("given", "windows", "rotates"),
    [
        (raw("llama", sliding_window=5), (EVERYWHERE,) * 4, (1,) * 4),
        (raw("mistral"), (4096,) * 4, (1,) * 4),
        (raw("mistral", sliding_window=None), (EVERYWHERE,) * 4, (1,) * 4),
        (raw("qwen2", sliding_window=5), (EVERYWHERE,) * 4, (1,) * 4),
        (raw("qwen2", sliding_window=5, use_sliding_window=True), (EVERYWHERE,) * 4, (1,) * 4),
        (
            raw("qwen3", sliding_window=5, use_sliding_window=True, max_window_layers=3),
            (EVERYWHERE, EVERYWHERE, EVERYWHERE, 5),
            (1,) * 4,
        ),
        (
            raw("qwen2", sliding_window=5, use_sliding_window=True, layer_types=ALTERNATING),
            (5, EVERYWHERE) * 2,
            (1,) * 4,
        ),
        (raw("smollm3"), (EVERYWHERE,) * 4, (1, 1, 1, 0)),
        (
            raw("smollm3", sliding_window=5, use_sliding_window=True, no_rope_layer_interval=2),
            (EVERYWHERE, 5) * 2,
            (1, 0) * 2,
        ),
        (raw("smollm3", no_rope_layers=[0, 1, 1, 1]), (EVERYWHERE,) * 4, (0, 1, 1, 1)),
    ],
)
def test_windows_and_layers_without_positions(given, windows, rotates):
    config = CONFIG(given)
    assert (config.windows, config.rotates) == (windows, rotates)
    constants = [dict(stage.constants) for stage in stages(config, "none")[1:-2]]
    assert [one.get("window", EVERYWHERE) for one in constants] == list(windows)
    assert [one.get("rotates", 1) for one in constants] == list(rotates)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": None}, "of a Llama must have the numbers vocab_size$"),
        ({"hidden_size": "6"}, "hidden_size must be a whole number from 1"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be a whole number from 1"),
        ({"num_attention_heads": 5}, "hidden_size 12 is not divisible by num_attention_heads 5"),
        ({"num_key_value_heads": 2}, "num_attention_heads 3 is not divisible by num_key_value_heads 2"),
        ({"head_dim": 5}, "a head of 5 features has no pairs to rotate"),
        ({"hidden_act": "silo"}, "unknown activation 'silo'; did you mean 'silu'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic' is not supported, only def"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type 'yarn' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope_type 'linear' needs the numbers factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "the numbers low_freq_factor, high_freq_fac"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "by type of layer .full_attention."),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor must be above 0"),
        ({"rope_scaling": {"type": "llama3", "factor": 8, **EVEN}}, "high_freq_factor must be above low_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 4}, "but no sliding_window is in use"),
        ({"model_type": "qwen3", "layer_types": ["full_attention"]}, "layer_types must name the 4 layers"),
        ({"model_type": "qwen3", "layer_types": ["chunked_attention"] * 4}, "layer_types chunked_attention are not"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers must speak of 4 layers"),
    ],
)
def test_configs_that_are_not_of_the_line(change, said):
    kind = change.get("model_type", "llama")
    with pytest.raises(InputError, match=said):
        CONFIG(raw(kind) | change)


def test_a_decoder_has_no_pooler_of_its_own():
    with pytest.raises(InputError, match="no pooler of its own: choose --pooling last"):
        stages(CONFIG(RAW), "pooler")


@pytest.mark.parametrize(
    ("more", "paths", "pooling"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, (), "none"),
        ({"architectures": ["LlamaModel"]}, (), "last"),
        ({"architectures": ["LlamaForSequenceClassification"]}, (), "last"),
        ({}, ("norm/scale", "head/kernel"), "none"),
        ({}, ("norm/scale",), "last"),
        ({"tie_word_embeddings": True}, ("norm/scale",), "none"),
    ],
)
def test_auto_is_what_the_class_computes(more, paths, pooling):
    assert default_pooling({**RAW, **more}, paths) == pooling


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("model.layers.3", "layers_3"),
        ("q_proj", "layers_i/attention/query"),
        ("mlp.gate_proj", "layers_i/mlp/gate"),
        ("input_layernorm", "layers_i/attention_norm"),
        ("lm_head", "head"),
    ],
)
def test_alias_understands_its_words(text, ours):
    assert NAMES.alias(text) == ours
