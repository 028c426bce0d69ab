"""How somebody's own network is called, and how it stands beside other stages."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tl_jax as tl
from tests.chains import fault
from tests.own.networks import LABELS, VOCABULARY, WIDTH, Encoder, Net, encoder, headed, linear, table
from tests.parity import assert_same_bits
from tl_jax.errors import InputError
from tl_jax.groups import Group
from tl_jax.model import Model
from tl_jax.rules import paths

# ------------------------------------------------------------------------------------------------------------- as it is


def test_a_linen_module_keeps_its_paths_and_its_bits(inputs, seed):
    model = encoder()
    variables = model.init(jax.random.key(seed))
    own = Encoder().init(jax.random.key(seed), inputs["tokens"], inputs["mask"])
    assert paths(variables).keys() == paths(own).keys() == {"embed/embedding", "query/kernel", "query/bias"}
    assert model.inputs == ("tokens", "mask") and model.names == ("network",)
    pooled = Encoder().apply(own, inputs["tokens"], inputs["mask"])
    assert_same_bits({"": model.apply(own, inputs)["pooled"]}, {"": pooled})


def test_models_of_equal_modules_are_one_compilation_key_and_functions_go_by_identity(rng):
    assert encoder() == encoder() and hash(encoder()) == hash(encoder()) and encoder() != encoder(width=7)
    variables = table(rng)
    one, same = (Model.from_function(linear, variables) for _ in range(2))
    assert one == same and hash(one) == hash(same)
    assert one != Model.from_function(partial(linear), variables)


def test_the_arguments_names_say_what_is_read(inputs, rng):
    class Foreign(nn.Module):
        @nn.compact
        def __call__(self, input_ids, attention_mask, scale=2.0, deterministic=True):
            return Encoder(name="inner")(input_ids, attention_mask, train=not deterministic) * scale

    model = Model.from_linen(Foreign(), writes="pooled")
    assert model.inputs == ("tokens", "mask")
    variables = model.init(jax.random.key(0))
    ours = encoder().apply({"params": variables["params"]["inner"]}, inputs)["pooled"]
    assert_same_bits({"": model.apply(variables, inputs)["pooled"]}, {"": 2 * ours})
    trained = model.apply(variables, inputs, train_from="network", key=jax.random.key(0))["pooled"]
    assert not np.array_equal(trained, 2 * ours)  # `deterministic` is the mode turned round


def test_reads_go_in_by_position_and_a_dict_may_come_back(inputs):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, m, train):
            hidden = nn.Embed(VOCABULARY, WIDTH)(x)
            return {"hidden": hidden, "pooled": (hidden * m[..., None]).sum(1), "more": hidden}

    model = Model.from_linen(Two(), reads=("tokens", "mask"), writes=("pooled", "hidden"))
    state = model.apply(model.init(jax.random.key(0)), inputs)
    assert state["pooled"].shape == (4, WIDTH) and state["hidden"].shape == (4, 5, WIDTH) and "more" not in state


def test_what_goes_in_by_name_may_stand_before_the_arrays(inputs, rng):
    class Late(nn.Module):
        @nn.compact
        def __call__(self, x, train, m):
            return (nn.Embed(VOCABULARY, WIDTH)(x) * m[..., None]).sum(1) * (2 if train else 1)

    model = Model.from_linen(Late(), reads=("tokens", "mask"), writes="pooled")
    variables = model.init(jax.random.key(0))
    still = model.apply(variables, inputs)["pooled"]
    trained = model.apply(variables, inputs, train_from="network", key=jax.random.key(0))["pooled"]
    assert np.any(still) and np.array_equal(trained, 2 * still)

    def late(params, key, x, train):
        return params["table"][x].sum(1) * (1 if key is None else 3)

    function = Model.from_function(late, table(rng), reads="tokens", writes="pooled")
    still = function.apply(table(rng), inputs)["pooled"]
    trained = function.apply(table(rng), inputs, train_from="network", key=jax.random.key(0))["pooled"]
    assert still.shape == trained.shape == (4, WIDTH)


def test_a_sequential_needs_only_its_reads(image):
    layers = (lambda x: x.mean((1, 2)), nn.Dense(LABELS))
    assert "Sequential.layers is list, which has no hash" in fault(Model.from_linen, nn.Sequential(list(layers)))
    model = Model.from_linen(nn.Sequential(layers), reads="image")
    variables = model.init(jax.random.key(0), image)
    assert model.apply(variables, image)["logits"].shape == (4, LABELS)


def test_every_stream_it_draws_from_follows_from_the_key(inputs):
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, tokens, train):
            x = nn.Embed(VOCABULARY, WIDTH)(tokens).mean(1)
            if not train:
                return x
            x = nn.Dropout(0.5, deterministic=False)(x)
            return x + jax.random.normal(self.make_rng("noise"), x.shape)

    model = Model.from_linen(Noisy(), writes="pooled")
    variables = model.init(jax.random.key(0))
    draw = partial(model.apply, variables, inputs, train_from="network")
    assert_same_bits(draw(key=jax.random.key(1)), draw(key=jax.random.key(1)))
    assert not np.array_equal(draw(key=jax.random.key(1))["pooled"], draw(key=jax.random.key(2))["pooled"])
    assert "give apply a key" in fault(draw)


def test_a_function_draws_from_its_key_in_training_alone(inputs, rng):
    def noisy(params, tokens, *, train, key):
        assert train == (key is not None)
        pooled = params["table"][tokens].sum(1)
        return pooled + jax.random.normal(key, pooled.shape) if train else pooled

    variables = {"params": {"table": table(rng)["params"]["table"]}}
    model = Model.from_function(noisy, variables, writes="pooled")
    draw = partial(model.apply, variables, inputs, train_from="network")
    assert_same_bits(model.apply(variables, inputs), model.apply(variables, inputs, key=jax.random.key(0)))
    assert not np.array_equal(draw(key=jax.random.key(1))["pooled"], draw(key=jax.random.key(2))["pooled"])
    assert fault(draw) == "noisy takes a key in training: give apply one"


def test_logits_are_float32_and_the_rest_computes_in_the_dtype_asked_for(inputs):
    model = headed(encoder()).cast(jnp.bfloat16)
    state = jax.eval_shape(lambda v: model.apply(v, inputs), model.shapes())
    assert (state["pooled"].dtype, state["logits"].dtype) == (jnp.bfloat16, jnp.float32)
    assert "Net has no field dtype" in fault(Model.from_linen(Net()).cast, jnp.bfloat16)


# ---------------------------------------------------------------------------------------------- beside other stages


def test_a_head_of_a_task_lies_beside_the_network(inputs, rng):
    variables = table(rng)
    for model, given in [
        (encoder(), encoder().init(jax.random.key(0))),
        (Model.from_function(linear, variables, writes="pooled"), variables),
    ]:
        task = tl.tasks.TextClassification(labels=("a", "b", "c"))
        plan = tl.methods.last_layers(k=0)(task.attach(model), given, jax.random.key(0))
        assert paths(plan.variables).keys() == paths(given).keys() | {"head/kernel", "head/bias"}
        assert plan.cut == "head" and plan.model.first_use("head/kernel") == plan.model.depth("head/bias") == 1
        assert all(plan.model.depth(path) == 0 for path in paths(given))
        assert plan.model.apply(plan.variables, inputs)["logits"].shape == (4, LABELS)
        assert tl.methods.discriminative(decay=0.5)(plan.model, plan.variables, jax.random.key(0)).labels["params"][
            "head"
        ] == {"kernel": Group("head"), "bias": Group("head")}


def test_a_network_with_a_head_of_its_own_trains_it_and_takes_no_other(rng, inputs):
    class Headed(nn.Module):
        writes_pooled: bool = False

        @nn.compact
        def __call__(self, tokens):
            return nn.Dense(LABELS, name="head")(nn.Embed(VOCABULARY, WIDTH, name="embed")(tokens).mean(1))

    model = Model.from_linen(Headed())
    variables = model.init(jax.random.key(0))
    task = tl.tasks.TextClassification(labels=("a", "b", "c"))
    assert task.attach(model).stages == model.stages and task.attach(model).info.labels == task.labels
    with pytest.raises(InputError, match="writes 3 logits for 2 labels; if they are features, say writes='pooled'"):
        outputs = model.apply(variables, inputs)
        tl.tasks.TextClassification(labels=("a", "b")).total_loss(outputs, {"targets": 0, "weights": 0})
    assert "no head lies apart from it" in fault(tl.methods.probe(), model, variables, jax.random.key(0))
    other = headed(Model.from_linen(Headed(), writes="pooled"))
    said = "'head' among the network's own params is where those of the stage of that name belong"
    assert said in fault(other.shapes) and said in fault(other.init, jax.random.key(0))
    assert fault(other.apply, variables, inputs).startswith("stage 'network' lacks")


def test_a_cut_between_the_network_and_its_head_changes_no_bit(inputs, seed):
    """Law 1, in training too."""
    model = headed(encoder())
    variables = model.init(jax.random.key(0))
    for mode in ({}, {"train_from": "network", "key": jax.random.key(seed)}):
        whole = model.apply(variables, inputs, **mode)
        below = model.apply(variables, inputs, stop="head", **mode)
        live = {key: below[key] for key in model.live("head") if key in below}
        assert_same_bits({"": model.apply(variables, live, start="head", **mode)["logits"]}, {"": whole["logits"]})
