"""Somebody's own network as a stage: how it is called, what it keeps, what trains, and what cannot work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tl_jax as tl
from tests.chains import Shift, fault
from tests.parity import assert_close, assert_same_bits
from tests.training.toy import batch as text_batch
from tests.training.toy import hyper, loss
from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.methods import lora
from tl_jax.model import Model
from tl_jax.models.heads import classifier
from tl_jax.rules import match, paths
from tl_jax.training.flops import flops
from tl_jax.training.optimizer import OptimizerSpec
from tl_jax.training.state import create
from tl_jax.training.state import variables as variables_of
from tl_jax.training.step import train_step

VOCABULARY, WIDTH, LABELS = 13, 6, 3


class Encoder(nn.Module):
    """Tokens to one vector a row, as somebody writes it who never heard of stages."""

    width: int = WIDTH
    rate: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens, mask=None, *, train: bool = False):
        x = nn.Embed(VOCABULARY, self.width, dtype=self.dtype, name="embed")(tokens)
        x = x + nn.tanh(nn.Dense(self.width, dtype=self.dtype, name="query")(x))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        if mask is None:
            return x.mean(1)
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


class Net(nn.Module):
    """An image net with batch norms, told their mode as the examples of Flax tell them: by their constructor."""

    @nn.compact
    def __call__(self, image, train=True):
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        for i in range(2):
            image = nn.relu(norm(name=f"norm_{i}")(nn.Conv(4, (3, 3), name=f"conv_{i}")(image)))
        return nn.Dense(LABELS, name="dense")(image.mean((1, 2)))


def linear(params, tokens, mask):
    """A function of params and arrays."""
    x = params["table"][tokens] * mask[..., None]
    return jnp.tanh(x.sum(1) @ params["out"]["kernel"] + params["out"]["bias"])


def table(rng: np.random.Generator) -> dict[str, Any]:
    drawn = {"table": (VOCABULARY, WIDTH), "kernel": (WIDTH, LABELS), "bias": (LABELS,)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in drawn.items()}
    return {"params": {"table": values["table"], "out": {"kernel": values["kernel"], "bias": values["bias"]}}}


@pytest.fixture
def inputs(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "tokens": rng.integers(0, VOCABULARY, (4, 5), np.int32),
        "mask": np.arange(5) < np.array([5, 4, 3, 1])[:, None],
    }


@pytest.fixture
def image(rng: np.random.Generator) -> dict[str, Any]:
    return {"image": rng.normal(size=(4, 5, 5, 2)).astype(np.float32)}


def encoder(**options: Any) -> Model:
    return Model.from_linen(Encoder(**options), writes="pooled")


def headed(model: Model) -> Model:
    return model.attach(classifier(LABELS, {}))


def steps(model: Model, variables: Any, labels: Any, batch: Any, count: int = 3) -> dict[str, Any]:
    """The variables after some steps of Adam."""
    tx = OptimizerSpec().build(labels)
    state = create(variables, labels, tx, jax.random.key(1))
    step = jax.jit(train_step(model, loss, tx))
    for _ in range(count):
        state, _ = step(state, batch, hyper())
    return variables_of(state)


def decided(rules: Any, variables: Any) -> Any:
    return match(rules, {name: tree for name, tree in variables.items() if name != "batch_stats"})


def moved(before: Any, after: Any) -> set[str]:
    old, new = paths(before), paths(after)
    assert old.keys() == new.keys()
    return {path for path in old if np.asarray(old[path]).tobytes() != np.asarray(new[path]).tobytes()}


# ------------------------------------------------------------------------------------------------------------ as it is


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


# ------------------------------------------------------------------------------------------------------------ training


def test_rules_train_what_they_say_of_a_linen_module(rng):
    """Law 4, and that nothing else stays."""
    model = headed(encoder())
    variables = model.init(jax.random.key(0))
    labels = decided([("embed/.*", FROZEN), (".*/bias", Group("biases")), (".*", Group("rest"))], variables)
    batch = text_batch(encoder(), rng)
    after = steps(model, variables, labels, batch)
    assert moved(variables, after) == {"query/kernel", "query/bias", "head/kernel", "head/bias"}


def test_biases_alone(rng):
    model = headed(encoder())
    variables = model.init(jax.random.key(0))
    labels = decided([("(.*/)?bias", Group("biases")), (".*", FROZEN)], variables)
    assert moved(variables, steps(model, variables, labels, text_batch(encoder(), rng))) == {"query/bias", "head/bias"}


@pytest.mark.parametrize(
    ("frozen", "still"),
    [
        ("(conv|norm)_0/.*", {"norm_0"}),
        ("norm_[01]/.*", {"norm_0", "norm_1"}),
        ("(conv|norm)_[01]/.*", {"norm_0", "norm_1"}),
        ("conv_0/.*", set()),
    ],
)
def test_a_frozen_batch_norm_keeps_its_statistics_and_the_others_do_not(frozen, still, image, rng):
    """Law 4 inside one network: a norm is in evaluation mode where its parameters are frozen."""
    model = Model.from_linen(Net())
    variables = model.init(jax.random.key(0), image)
    labels = decided([(frozen, FROZEN), (".*", Group("rest"))], variables)
    batch = {**image, "targets": rng.integers(0, LABELS, 4).astype(np.int32), "weights": np.ones(4, np.float32)}
    after = steps(model, variables, labels, batch)
    held = {path for path, label in paths(labels).items() if label is FROZEN}
    held |= {f"batch_stats/{norm}/{name}" for norm in still for name in ("mean", "var")}
    assert moved(variables, after) == paths(variables).keys() - held


def test_a_norm_held_still_computes_as_in_evaluation(image):
    model = Model.from_linen(Net())
    variables = model.init(jax.random.key(0), image)
    variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])
    apply = partial(model.apply, variables, image, train_from="network", mutable=("batch_stats",))
    state, changed = apply(evaluate=("norm_0", "norm_1"))
    assert_same_bits({"": state["logits"]}, {"": model.apply(variables, image)["logits"]})
    assert_same_bits(changed["batch_stats"], variables["batch_stats"])
    assert not np.array_equal(apply(evaluate=("norm_0",))[0]["logits"], state["logits"])
    assert "'norm_2' is to be in evaluation mode" in fault(apply, evaluate=("norm_2",))


def test_below_a_head_that_trains_alone_the_network_is_in_evaluation_mode(image, rng):
    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, image, train):
            return nn.Dropout(0.5, deterministic=not train)(Net(name="net")(image, train))

    model = headed(Model.from_linen(Pooled(), writes="pooled"))
    variables = model.init(jax.random.key(0), image)
    labels = decided([("head/.*", Group("head")), (".*", FROZEN)], variables)
    batch = {**image, "targets": rng.integers(0, LABELS, 4).astype(np.int32), "weights": np.ones(4, np.float32)}
    assert moved(variables, steps(model, variables, labels, batch)) == {"head/kernel", "head/bias"}


def test_a_step_costs_what_its_trainable_part_needs(rng):
    """Law 5 for one set of rules on somebody's own module."""
    module = Encoder(width=32, rate=0.0)
    model = Model.from_linen(module, writes="logits")
    variables = model.init(jax.random.key(0))
    labels = decided([("query/.*", Group("query")), (".*", FROZEN)], variables)
    batch, tx = text_batch(model, rng), OptimizerSpec().build(labels)
    ours = flops(train_step(model, loss, tx), create(variables, labels, tx, jax.random.key(0)), batch, hyper())

    frozen, chosen = {"embed": variables["params"]["embed"]}, {"query": variables["params"]["query"]}
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.01))

    def reference(chosen: Any, moments: Any) -> Any:
        def total(chosen: Any) -> Any:
            with jax.default_matmul_precision("highest"):
                logits = module.apply({"params": {**frozen, **chosen}}, batch["tokens"], batch["mask"], train=True)
            return loss({"logits": logits}, batch)

        (value, weight), grads = jax.value_and_grad(total, has_aux=True)(chosen)
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.tree.norm(grads)
        updates, new = adam.update(grads, moments, chosen)
        stepped = optax.apply_updates(chosen, jax.tree.map(lambda u: -1e-2 * u, updates))
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), (stepped, new), (chosen, moments)), norm

    assert abs(ours / flops(reference, chosen, adam.init(chosen)) - 1) <= 0.02


# ------------------------------------------------------------------------------------------------------------ adapters


def test_lora_on_a_linen_module(rng, inputs):
    model = headed(encoder())
    plan = lora(rank=2, targets="query")(model, model.init(jax.random.key(0)), jax.random.key(1))
    assert plan.cut == "network"
    before = model.apply(plan.variables | {"adapters": {}}, inputs)["logits"]
    assert_same_bits({"": plan.model.apply(plan.variables, inputs)["logits"]}, {"": before})
    after = steps(plan.model, plan.variables, plan.labels, text_batch(encoder(), rng), count=20)
    leaves = {"adapters/lora/query/a", "adapters/lora/query/b", "head/kernel", "head/bias"}
    assert moved(plan.variables, after) == leaves
    merged, folded = tl.merge(plan.model, after)
    assert_close({"": merged.apply(folded, inputs)["logits"]}, {"": plan.model.apply(after, inputs)["logits"]}, 1e-5)
    # a cut between the network and the head reads what belongs below it, and no more
    assert "pooled" in plan.model.apply(after, inputs, stop="head")


@dataclass(frozen=True)
class Sum:
    """Override: adds a leaf to the parameter of its path."""

    name: str = "sum"

    def override(self, params: Any, leaves: Any) -> Any:
        return {
            name: value
            if name not in leaves
            else self.override(value, leaves[name])
            if isinstance(value, dict)
            else value + leaves[name]
            for name, value in params.items()
        }


def test_an_override_acts_on_a_function(rng, inputs):
    variables = table(rng)
    model = replace(Model.from_function(linear, variables), hooks=(Sum(),))
    adapted = {**variables, "adapters": {"sum": {"out": {"bias": np.zeros(LABELS, np.float32)}}}}
    labels = decided([("adapters/.*", Group("sum")), (".*", FROZEN)], adapted)
    after = steps(model, adapted, labels, text_batch(model, rng))
    assert moved(adapted, after) == {"adapters/sum/out/bias"}
    out = variables["params"]["out"]
    params = {**variables["params"], "out": {**out, "bias": out["bias"] + after["adapters"]["sum"]["out"]["bias"]}}
    by_hand = linear(params, inputs["tokens"], inputs["mask"])
    assert_close({"": model.apply(after, inputs)["logits"]}, {"": by_hand})
    unread = {**variables, "adapters": {"sum": {"out": {"biass": np.zeros(LABELS, np.float32)}}}}
    assert "'adapters/sum/out/biass' was not read" in fault(model.apply, unread, inputs)
    assert "no dense module" in fault(lora(), model, variables, jax.random.key(0))


class Stacked(nn.Module):
    """Three layers as one, their parameters stacked by `nn.scan`."""

    @nn.compact
    def __call__(self, tokens):
        layer = nn.scan(_Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layer(name="layers")(nn.Embed(VOCABULARY, WIDTH, name="embed")(tokens), None)
        return x.mean(1)


class _Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return jnp.tanh(nn.Dense(WIDTH, name="query")(x)), None


_Compiled = nn.jit(nn.Dense)


class Jitted(nn.Module):
    """A layer that Linen compiles by itself, once, and does not trace again."""

    @nn.compact
    def __call__(self, tokens):
        return _Compiled(WIDTH, name="query")(nn.Embed(VOCABULARY, WIDTH, name="embed")(tokens)).mean(1)


def test_lora_on_layers_stacked_by_a_scan_is_refused():
    """It would be one update for all of them."""
    model = Model.from_linen(Stacked(), writes="pooled")
    said = fault(lora(targets="query"), model, model.init(jax.random.key(0)), jax.random.key(0))
    assert "layers/query has a kernel of [3, 6, 6]" in said


def test_an_adapter_that_a_module_would_drop_raises(inputs):
    model = Model.from_linen(Jitted(), writes="pooled")
    variables = model.init(jax.random.key(0))
    model.apply(variables, inputs)  # compiled without the interceptor
    adapted = {**variables, "adapters": {"shift": {"query": {"shift": jnp.ones(WIDTH)}}}}
    hooked = replace(model, hooks=(Shift(),))
    assert "the adapter leaf 'adapters/shift/query/shift' was not read" in fault(hooked.apply, adapted, inputs)
    model = Model.from_linen(Stacked(), writes="pooled")  # its layers have no places of their own
    adapted = {**model.init(jax.random.key(0)), "adapters": {"shift": {"layers": {"1": {"shift": jnp.ones(WIDTH)}}}}}
    assert "'adapters/shift/layers/1/shift' was not read" in fault(
        replace(model, hooks=(Shift(),)).apply, adapted, inputs
    )


# ------------------------------------------------------------------------------------------------------------ mistakes


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
