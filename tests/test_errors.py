"""Errors name what was meant."""

from __future__ import annotations

import pytest

from tl_jax.errors import InputError, did_you_mean, nearest

METHODS = ("full", "lora", "probe", "last_layers")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lroa", ["lora"]),
        ("last_layer", ["last_layers"]),
        ("probe", ["probe"]),
        ("zzz", []),
    ],
)
def test_nearest(word, expected):
    assert nearest(word, METHODS) == expected


def test_nearest_is_best_first_and_no_more_than_asked():
    words = ["layers_1", "layers_11", "layer_1x", "mlp"]
    assert nearest("layers_1", words, n=2) == ["layers_1", "layers_11"]


def test_nearest_takes_any_choices():
    assert nearest("12", [11, 12]) == ["12", "11"]
    assert nearest(12, iter(["12"])) == ["12"]


@pytest.mark.parametrize(
    ("word", "choices", "expected"),
    [
        ("lroa", METHODS, "; did you mean 'lora'?"),
        ("abcd1", ["abcd2", "abcd3"], "; did you mean 'abcd3' or 'abcd2'?"),
        ("zzz", METHODS, "; choose from full, lora, probe, last_layers"),
        ("zzz", [f"label {i}" for i in range(13)], ""),
        ("zzz", [], ""),
        ("lroa", iter(METHODS), "; did you mean 'lora'?"),
    ],
)
def test_did_you_mean(word, choices, expected):
    assert did_you_mean(word, choices) == expected


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
