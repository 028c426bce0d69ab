"""What cannot work with somebody's own network, and what is said."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import pytest

import tl_jax as tl
from tests.chains import fault
from tests.own.networks import VOCABULARY, WIDTH, Encoder, Net, linear, table
from tests.parity import assert_same_bits
from tl_jax.model import Model


class Returns(nn.Module):
    """Returns what it is told to."""

    what: str

    @nn.compact
    def __call__(self, tokens, train):
        x = nn.Embed(VOCABULARY, WIDTH)(tokens)
        return {
            "hidden": x,
            "dict": {"hidden": x},
            "two": (x.mean(1), x),
            "number": 3.0,
            "integers": tokens,
            "loss": x.mean(),
            "short": x.mean((0, 1))[None],
        }[self.what]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("hidden", "returns [1, 8, 6] for pooled: it must be [1, features], one row for each example"),
        ("dict", "returns hidden; to be written is pooled"),
        ("two", "returns 2 arrays; to be written is pooled"),
        ("number", "returns float for pooled: it must be an array of floating-point numbers"),
        ("integers", "returns int32 for pooled: it must be an array of floating-point numbers"),
        ("loss", "returns [] for pooled"),
    ],
)
def test_what_comes_back_is_checked(what, said):
    assert said in fault(Model.from_linen(Returns(what), writes="pooled").shapes)


def test_a_row_for_each_example(inputs, rng):
    variables = table(rng)
    model = Model.from_function(lambda params, tokens: params["table"][tokens].mean((0, 1))[None], variables)
    assert "returns [1, 6] for logits: it must be [4, labels]" in fault(model.apply, variables, inputs)


class NoMode(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH)(tokens).mean(1)
        if self.kind == "dropout":
            return nn.Dropout(0.5, deterministic=False)(x)
        return nn.BatchNorm(use_running_average=False)(x) if self.kind == "norm" else x


class Deaf(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, tokens, train):
        return NoMode(self.kind)(tokens)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (NoMode("dropout"), "NoMode draws random numbers and takes none of train, training"),
        (NoMode("norm"), "NoMode keeps statistics (batch_stats) and takes none of train"),
        (Deaf("dropout"), "Deaf draws random numbers though train=False"),
        (Deaf("norm"), "Deaf updates its statistics though train=False"),
    ],
)
def test_a_network_that_cannot_be_told_whether_it_trains(module, said, inputs):
    model = Model.from_linen(module, writes="pooled")
    variables = model.init(jax.random.key(0))
    assert said in fault(model.apply, variables, inputs)
    assert said in fault(model.apply, variables, inputs, key=jax.random.key(0), mutable=("batch_stats",))


def test_without_anything_to_tell_no_mode_is_needed(inputs):
    model = Model.from_linen(NoMode("plain"), writes="pooled")
    variables = model.init(jax.random.key(0))
    trained = model.apply(variables, inputs, train_from="network", key=jax.random.key(0))
    assert_same_bits(trained, model.apply(variables, inputs))


def test_arguments_that_do_not_fit(rng):
    variables = table(rng)
    tokens = (variables, lambda params, tokens: tokens)
    for call, options, said in [
        (lambda params, x: x, {}, "what <lambda> reads does not follow from its arguments: 'x' is no key of the state"),
        (lambda params, token: token, {}, "'token' is no key of the state; did you mean 'tokens'"),
        (lambda params, tokens, scale: tokens, {}, "'scale' is no key of the state"),
        (lambda params, x: x, {"reads": ("tokens", "mask")}, "takes (x), which does not fit reads=['tokens', 'mask']"),
        (lambda params, x, y: x, {"reads": "tokens"}, "missing a required argument: 'y'"),
        (lambda params, tokens, key: tokens, {}, "takes a key to draw from and takes none of train"),
        (lambda: 0, {}, "takes no argument: the first must be its params"),
        (tokens[1], {"writes": "embedding"}, "stage 'network' has the unknown key 'embedding'"),
        (lambda params, train, *x: x, {"reads": "tokens"}, "takes train before x, which has no name to be given by"),
        (lambda params, x: x, {"reads": "input_ids"}, "'input_ids'; it is 'tokens' here"),
        (3, {}, "from_function takes a function"),
    ]:
        assert said in fault(Model.from_function, call, variables, **options)
    assert "give an instance, Encoder(…)" in fault(Model.from_linen, Encoder)
    assert "from_linen takes a flax.linen.Module" in fault(Model.from_linen, linear)
    assert "Listed.widths is list, which has no hash" in fault(Model.from_linen, Listed([1, 2]))


class Listed(nn.Module):
    widths: Any

    def __call__(self, tokens):
        return tokens


def test_variables_that_do_not_fit(inputs, rng):
    variables = table(rng)
    params = variables["params"]
    for given, said in [
        (params, "give linear its variables, {'params': nested dicts of arrays}"),
        ({"params": [params]}, "nested dicts of arrays"),
        ({"params": {"layers": [params["table"]]}}, "layers is of type list"),
        ({**variables, "batch_stats": {}}, "is a function of params, and batch_stats would not reach it"),
    ]:
        assert said in fault(Model.from_function, linear, given)
    model = Model.from_function(linear, variables, writes="pooled")
    short = {"params": {"table": params["table"][:, :3], "out": {"kernel": params["out"]["kernel"]}}}
    assert fault(model.apply, short, inputs) == (
        "these are not the params linear was given with: out/bias is missing, was [3]; table is [13, 3], was [13, 6]"
    )
    assert "with params among them, not {table, out}" in fault(model.apply, params, inputs)
    assert "with params among them, not {table, out}" in fault(tl.methods.full(), model, params, jax.random.key(0))
    assert "has no first values" in fault(model.init, jax.random.key(0))
    image = Model.from_linen(Net())
    assert "stage 'network' reads image, which the state lacks" in fault(image.apply, {"params": {}}, inputs)
    assert "shapes of image cannot be guessed" in fault(image.shapes)
