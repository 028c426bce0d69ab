"""The chain: its places and cuts, modes and keys, sites, precision, and what it is compiled by."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from tests import chains
from tests.chains import Shift, fault, logits_grad
from tests.parity import ROUNDING, assert_close, assert_same_bits, relative
from tl_jax.model import Model, ModelInfo, Site
from tl_jax.models.bert import NAMES
from tl_jax.models.layers import head_stage, pooler_stage
from tl_jax.rules import paths
from tl_jax.stage import Stage

# -- places -------------------------------------------------------------------------------------------------------


def test_names_and_index():
    model = chains.plain()
    assert model.names == ("embeddings", "layers_0", "layers_1", "layers_2", "pooler", "head")
    assert [model.index(name) for name in model.names] == list(range(6))


def test_an_unknown_stage_is_answered_with_the_nearest():
    assert fault(chains.plain().index, "layer_1") == (
        "the model has no stage 'layer_1'; did you mean 'layers_1' or 'layers_2' or 'layers_0'?"
    )


def test_a_foreign_stage_is_answered_with_ours():
    model = replace(chains.bert(), info=ModelInfo(alias=NAMES.alias))
    said = fault(model.apply, {"params": {}}, {}, start="encoder.layer.1")
    assert said == "the model has no stage 'encoder.layer.1'; encoder.layer.1 is layers_1 here"


@pytest.mark.parametrize("option", ["start", "stop", "train_from", "evaluate"])
def test_apply_knows_its_stages(option):
    name = ("layer_1",) if option == "evaluate" else "layer_1"
    assert "did you mean 'layers_1'" in fault(chains.plain().apply, {"params": {}}, {}, **{option: name})


@pytest.mark.parametrize(
    ("chain", "path", "depth", "first_use"),
    [
        (chains.plain, "embeddings/token/embedding", 0, 0),
        (chains.plain, "layers_2/dense/kernel", 3, 3),
        (chains.plain, "adapters/lora/layers_1/dense/a", 2, 2),
        (chains.plain, "head/kernel", 5, 5),
        (chains.plain, "layers_1", 2, 2),
        (chains.tied, "embeddings/token/embedding", 0, 0),
        (chains.tied, "head/bias", 2, 2),
        (chains.shared, "layers/dense/kernel", 1, 1),  # the first of the stages that share it
        (chains.shared, "adapters/lora/layers/dense/a", 1, 1),
    ],
)
def test_depth_and_first_use(chain, path, depth, first_use):
    assert (chain().depth(path), chain().first_use(path)) == (depth, first_use)


def test_a_leaf_lent_downwards_is_used_before_its_owner():
    head = Stage("head", chains.TiedHead(), ("hidden",), ("logits",))
    first = Stage("first", chains.Lookup(), ("tokens",), ("hidden",), borrows=(("token/embedding", "head/embedding"),))
    model = Model((first, chains.plain().stages[1], head))
    assert (model.depth("head/embedding"), model.first_use("head/embedding")) == (2, 0)
    assert (model.depth("head/bias"), model.first_use("head/bias")) == (2, 2)


def test_a_path_that_no_stage_owns():
    assert "no stage owns 'layer_1/dense/kernel'; did you mean 'layers_1'" in fault(
        chains.plain().depth, "layer_1/dense/kernel"
    )
    assert "did you mean 'layers_1'" in fault(chains.plain().first_use, "adapters/lora/layer_1/dense/a")
    assert "no stage owns 'layers/dense/kernel'" in fault(chains.plain().depth, "layers/dense/kernel")


@pytest.mark.parametrize(
    ("chain", "cut", "live"),
    [
        (chains.plain, "embeddings", {"tokens", "noise", "segments", "starts"}),
        (chains.plain, "layers_1", {"hidden", "noise", "segments", "starts"}),
        (chains.plain, "head", {"pooled", "noise", "starts"}),
        (chains.tied, "head", {"hidden"}),
        (chains.normed, "blocks_0", {"hidden"}),
        (chains.bert, "embeddings", {"tokens", "positions", "token_type", "noise", "segments", "starts"}),
        (chains.bert, "layers_0", {"hidden", "noise", "segments", "starts"}),
    ],
)
def test_live_is_what_is_read_before_it_is_written(chain, cut, live):
    assert set(chain().live(cut)) == live


def test_a_state_without_its_live_keys_says_which_are_missing(rng):
    model = chains.bert()
    said = fault(
        model.apply, chains.variables(model, rng), {"hidden": jnp.zeros((1, 4, chains.WIDTH))}, start="layers_1"
    )
    assert said == "stage 'layers_1' reads segments, which the state lacks (it has hidden)"


# -- new chains ---------------------------------------------------------------------------------------------------


def test_attach_at_the_end_and_at_a_cut():
    model = chains.plain()
    other = head_stage(7)
    body = replace(model, stages=model.stages[:-1])
    assert body.attach(other).names == model.names
    assert body.attach(other).stages[-1] is other
    cut = model.attach(pooler_stage("cls"), other, at="layers_1")
    assert cut.names == ("embeddings", "layers_0", "pooler", "head")
    assert model.names[-1] == "head" and model.stages[-1] is not other


def test_a_truncated_chain_computes_what_the_chain_did_up_to_there(rng):
    model = chains.plain()
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    short = model.attach(*model.stages[-2:], at="layers_2")
    whole = model.apply(variables, inputs, stop="layers_2")
    assert_same_bits({"hidden": short.apply(variables, inputs)["hidden"]}, {"hidden": whole["hidden"]})
    assert "layers_2" not in short.shapes()["params"]


def test_insert_before_a_stage():
    model = chains.plain()
    longer = model.insert("layers_1", Stage("prompt", chains.Block(), ("hidden", "noise"), ("hidden",)))
    assert longer.names == ("embeddings", "layers_0", "prompt", "layers_1", "layers_2", "pooler", "head")
    assert model.names == ("embeddings", "layers_0", "layers_1", "layers_2", "pooler", "head")


def test_names_are_unique():
    model = chains.plain()
    assert fault(model.attach, head_stage(2)) == "stage names must be unique; twice: head"


# -- inputs -------------------------------------------------------------------------------------------------------


def test_an_input_that_nothing_can_guess():
    assert "stage 'stem' reads image, which the state lacks" in fault(
        chains.normed().apply, {"params": {}}, {"tokens": jnp.zeros((1, 2), jnp.int32)}
    )
    assert fault(chains.normed().shapes) == "give example inputs: shapes of image cannot be guessed"


def test_the_state_given_is_left_alone(rng):
    model = chains.plain()
    inputs = chains.text(rng)
    keys = list(inputs)
    model.apply(chains.variables(model, rng), inputs)
    assert list(inputs) == keys


def test_the_whole_state_comes_back_and_stop_comes_before(rng):
    model = chains.plain()
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    assert {"tokens", "mask", "hidden", "pooled", "logits"} <= model.apply(variables, inputs).keys()
    assert model.apply(variables, inputs, stop="head").keys() & {"pooled", "logits"} == {"pooled"}
    assert "hidden" not in model.apply(variables, inputs, stop="embeddings")
    assert fault(model.apply, variables, inputs, start="layers_1", stop="layers_0") == (
        "nothing lies between start 'layers_1' and stop 'layers_0': the stop comes first"
    )


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda p: p, "variables are {collection: tree} with params among them, not {embeddings, layers_0,"),
        (lambda p: {"params": {}}, "stage 'embeddings' finds no variables of its own"),
        (lambda p: {"params": {**p, "layers_1": {"norm": p["layers_1"]["norm"]}}}, "stage 'layers_1' lacks"),
        (
            lambda p: {"params": {**p, "layers_1": {**p["layers_1"], "dense": {"kernel": jnp.zeros((6, 6))}}}},
            "stage 'layers_1' lacks a parameter",
        ),
        (
            lambda p: {"params": {**p, "head": {"kernel": jnp.zeros((6, 4)), "bias": jnp.zeros(4)}}},
            "stage 'head' has a parameter of another shape",
        ),
    ],
)
def test_variables_that_do_not_fit_name_the_stage(broken, said, rng):
    model = chains.plain()
    params = chains.variables(model, rng)["params"]
    assert fault(model.apply, broken(params), chains.text(rng)).startswith(said)


# -- modes and keys -----------------------------------------------------------------------------------------------


def test_dropout_needs_a_key_and_noise(rng):
    model = chains.plain()
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    assert "stage 'layers_1' draws dropout in training mode: give apply a key" in fault(
        model.apply, variables, inputs, train_from="layers_1"
    )
    del inputs["noise"]
    assert "`noise`" in fault(model.apply, variables, inputs, train_from="layers_1", key=jax.random.key(0))
    assert model.apply(variables, inputs)["logits"].shape == (3, chains.LABELS)


def test_a_key_alone_does_not_train(rng):
    model = chains.plain()
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    assert_same_bits(model.apply(variables, inputs, key=jax.random.key(0)), model.apply(variables, inputs))


def test_without_dropout_training_needs_no_key(rng):
    model = chains.plain(dropout=0.0)
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    assert_same_bits(model.apply(variables, inputs, train_from="embeddings"), model.apply(variables, inputs))


def test_stages_below_train_from_run_in_evaluation_mode(rng, seed):
    model = chains.plain()
    variables, inputs, key = chains.variables(model, rng), chains.text(rng), jax.random.key(seed)
    quiet = model.apply(variables, inputs, stop="layers_1")["hidden"]
    half = partial(model.apply, variables, inputs, train_from="layers_1", key=key)
    assert_same_bits({"hidden": half(stop="layers_1")["hidden"]}, {"hidden": quiet})
    assert not np.array_equal(
        half(stop="layers_2")["hidden"], model.apply(variables, inputs, stop="layers_2")["hidden"]
    )


def test_evaluate_names_single_stages(rng, seed):
    model = chains.plain()
    variables, inputs, key = chains.variables(model, rng), chains.text(rng), jax.random.key(seed)
    train = partial(model.apply, variables, inputs, train_from="embeddings", key=key)
    assert_same_bits(train(evaluate=model.names), model.apply(variables, inputs))
    assert_same_bits(
        train(evaluate=("layers_0", "layers_1")), model.apply(variables, inputs, train_from="layers_2", key=key)
    )


def test_the_key_is_folded_by_the_place_in_the_whole_chain(rng, seed):
    """Each block run alone, with the key its place gives it, is what the chain computed there."""
    model = chains.plain()
    variables, inputs, key = chains.variables(model, rng), chains.text(rng), jax.random.key(seed)
    state = model.apply(variables, inputs, stop="layers_0", train_from="embeddings", key=key)
    hidden = state["hidden"]
    for i, name in enumerate(("layers_0", "layers_1", "layers_2"), 1):
        hidden = chains.Block().apply(
            {"params": variables["params"][name]},
            hidden,
            inputs["noise"],
            train=True,
            rngs={"dropout": jax.random.fold_in(key, i)},
        )
    whole = model.apply(variables, inputs, stop="pooler", train_from="embeddings", key=key)
    assert_same_bits({"hidden": whole["hidden"]}, {"hidden": hidden})


def test_keys_and_stages_draw_different_dropout(rng):
    """Three stages with one scope and one constant on the same input differ in their place alone."""
    block = Stage("layers_0", chains.Block(0.5), ("hidden", "noise"), ("hidden",), scope="layers")
    model = Model(tuple(replace(block, name=f"layers_{i}") for i in range(3)))
    state = {"hidden": rng.normal(size=(3, 5, chains.WIDTH)).astype(np.float32), "noise": chains.text(rng)["noise"]}
    variables = {"params": {"layers": chains.variables(chains.shared(), rng)["params"]["layers"]}}

    def out(name, after, key):
        options = {"start": name, "stop": after, "train_from": "layers_0", "key": jax.random.key(key)}
        return np.asarray(model.apply(variables, state, **options)["hidden"])

    drawn = [out("layers_0", "layers_1", 0), out("layers_1", "layers_2", 0), out("layers_0", "layers_1", 1)]
    assert_same_bits({"": out("layers_0", "layers_1", 0)}, {"": drawn[0]})
    for i in range(3):
        for j in range(i):
            assert (drawn[i] != drawn[j]).mean() > 0.5


# -- sites --------------------------------------------------------------------------------------------------------


def test_sites_of_bert():
    sites = {site.path: site for site in chains.bert("pooler").sites()}
    assert [path for path in sites if path.startswith("layers_1")] == [
        "layers_1/attention/query",
        "layers_1/attention/key",
        "layers_1/attention/value",
        "layers_1/attention/out",
        "layers_1/attention_norm",
        "layers_1/mlp/up",
        "layers_1/mlp/down",
        "layers_1/mlp_norm",
    ]
    assert sites["layers_0/mlp/up"] == Site("layers_0/mlp/up", "dense", 6, 7)
    assert sites["layers_0/mlp/down"] == Site("layers_0/mlp/down", "dense", 7, 6)
    assert sites["embeddings/token"] == Site("embeddings/token", "embed", 13, 6)
    assert sites["embeddings/norm"] == Site("embeddings/norm", "norm", 6, 6)
    assert sites["layers_0/attention_norm"].kind == "norm"
    assert sites["pooler/dense"] == Site("pooler/dense", "dense", 6, 6)


def test_sites_of_a_convolutional_net_and_of_a_shared_scope(rng):
    assert chains.normed().sites(chains.image(rng)) == (
        Site("stem/conv", "conv", 2, 4),
        Site("stem/norm", "norm", 4, 4),
        Site("blocks_0/conv", "conv", 4, 4),
        Site("blocks_0/norm", "norm", 4, 4),
        Site("head/dense", "dense", 4, 3),
    )
    assert [site.path for site in chains.shared().sites()] == ["embeddings/token", "layers/dense", "layers/norm"]


# -- rematerialisation and precision ------------------------------------------------------------------------------


def dots(jaxpr) -> list:
    """The matrix products of a jaxpr and of all jaxprs inside it."""
    mine = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    return mine + [dot for eqn in jaxpr.eqns for inner in jaxprs_in_params(eqn.params) for dot in dots(inner)]


def test_remat_changes_nothing(rng, seed):
    model = chains.plain(layers=2)
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    options = {"train_from": "embeddings", "key": jax.random.key(seed)}
    again = replace(model, remat=True)
    logits, reference = (m.apply(variables, inputs, **options)["logits"] for m in (again, model))
    assert relative(logits, reference) <= ROUNDING
    assert_close(logits_grad(again, variables, inputs, **options), logits_grad(model, variables, inputs, **options))


@chains.over(chains.plain, chains.shared, chains.bert)
def test_remat_recomputes(chain, rng, seed):
    model = chain()
    inputs, options = chains.text(rng), {"train_from": "embeddings", "key": jax.random.key(seed)}

    def count(remat):
        again = replace(model, remat=remat)
        return len(dots(jax.make_jaxpr(lambda v: logits_grad(again, v, inputs, **options))(model.shapes()).jaxpr))

    none, one, all_ = count(False), count(("layers_1",)), count(True)
    assert none < one < all_


def test_remat_lies_in_training_stages_only(rng):
    model = replace(chains.plain(dropout=0.0), remat=True)
    variables, inputs = chains.variables(model, rng), chains.text(rng)

    def named_remat(**options):
        jaxpr = jax.make_jaxpr(lambda v: model.apply(v, inputs, **options)["logits"])(variables)
        return sum("remat" in eqn.primitive.name or "checkpoint" in eqn.primitive.name for eqn in jaxpr.jaxpr.eqns)

    assert [named_remat(), named_remat(train_from="layers_2"), named_remat(train_from="embeddings")] == [0, 3, 6]


def test_remat_names_stages_that_exist():
    model = chains.plain()
    assert "no stage 'layer_1'" in fault(replace, model, remat=("layer_1",))
    cut = replace(model, remat=("layers_0", "layers_2")).attach(head_stage(2), at="layers_1")
    assert cut.remat == ("layers_0",)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "pooler"])
def test_computing_in_bfloat16_leaves_parameters_gradients_and_logits_in_float32(pooling, rng, seed):
    low = chains.bert(pooling).cast(jnp.bfloat16)
    shapes, inputs = low.shapes(), chains.text(rng)
    assert {leaf.dtype for leaf in paths(shapes).values()} == {jnp.dtype("float32")}
    options = {"train_from": "embeddings", "key": jax.random.key(seed)}
    for mode in ({}, options):
        state = jax.eval_shape(lambda v, mode=mode: low.apply(v, inputs, **mode), shapes)
        said = {key: str(state[key].dtype) for key in ("hidden", "pooled", "logits")}
        assert said == {"hidden": "bfloat16", "pooled": "bfloat16", "logits": "float32"}
    gradient = jax.eval_shape(lambda v: logits_grad(low, v, inputs, **options), shapes)
    assert {leaf.dtype for leaf in paths(gradient).values()} == {jnp.dtype("float32")}
    below = jax.make_jaxpr(lambda v: low.apply(v, inputs, stop="pooler")["hidden"])(shapes)
    assert {operand.aval.dtype for dot in dots(below.jaxpr) for operand in dot.invars} == {jnp.dtype("bfloat16")}


def test_bfloat16_is_near_float32(rng):
    model = chains.plain()
    low = model.cast(jnp.bfloat16)
    assert low != model and low == model.cast(jnp.bfloat16)
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    exact, near = (jax.jit(lambda v, m=m: m.apply(v, inputs)["logits"])(variables) for m in (model, low))
    assert 1e-5 < relative(near, exact) < 0.1


# -- the compilation key ------------------------------------------------------------------------------------------


@chains.every
def test_equal_models_compile_once(chain, rng):
    first, second = chain(), replace(chain(), info=ModelInfo(family="x", config={"a": [1]}, processor=object()))
    assert first == second and hash(first) == hash(second)
    variables, inputs = chains.variables(first, rng), chains.inputs(first, rng)
    traces = []

    @partial(jax.jit, static_argnums=0)
    def run(model, variables, inputs):
        traces.append(model)
        return model.apply(variables, inputs)["logits"]

    run.lower(first, variables, inputs)
    run.lower(second, variables, inputs)
    assert len(traces) == 1
    run.lower(replace(first, hooks=(Shift(),)), variables, inputs)
    assert len(traces) == 2


def test_what_changes_the_computation_changes_the_model():
    model = chains.plain()
    others = [
        chains.plain(layers=2),
        chains.plain(dropout=0.5),
        model.cast(jnp.bfloat16),
        replace(model, remat=True),
        replace(model, hooks=(Shift(),)),
        replace(model, hooks=(Shift("other"),)),
    ]
    assert len({model, *others, chains.plain()}) == 1 + len(others)
