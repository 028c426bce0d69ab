"""The chain: cuts, modes, keys, scopes, borrowed leaves, statistics, first values."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import flax.linen as nn
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
from tl_jax.models.layers import Mlp, head_stage, pooler_stage
from tl_jax.rules import paths
from tl_jax.stage import Stage

CHAINS = (chains.plain, chains.tied, chains.shared, chains.normed, chains.bert)
named = pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.__name__)


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


# -- statistics ---------------------------------------------------------------------------------------------------


def test_statistics_move_in_training_stages_only(rng):
    model = chains.normed()
    variables, inputs = chains.variables(model, rng), chains.image(rng)
    for train_from, moving in [("stem", {"stem", "blocks_0"}), ("blocks_0", {"blocks_0"}), (None, set())]:
        state, changed = model.apply(variables, inputs, train_from=train_from, mutable=("batch_stats",))
        assert changed.keys() == {"batch_stats"} and changed["batch_stats"].keys() == {"stem", "blocks_0"}
        for name in ("stem", "blocks_0"):
            old, new = variables["batch_stats"][name], changed["batch_stats"][name]
            if name in moving:
                assert all((a != b).all() for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))
            else:
                assert_same_bits(new, old)
        assert state["logits"].shape == (4, chains.LABELS)


def test_statistics_of_a_stage_named_in_evaluate_stay(rng):
    model = chains.normed()
    variables, inputs = chains.variables(model, rng), chains.image(rng)
    options = {"train_from": "stem", "mutable": ("batch_stats",)}
    state, changed = model.apply(variables, inputs, evaluate=("stem",), **options)
    assert_same_bits(changed["batch_stats"]["stem"], variables["batch_stats"]["stem"])
    other, _ = model.apply(variables, inputs, train_from="blocks_0", mutable=("batch_stats",))
    assert_same_bits(state, other)


def test_new_statistics_are_the_batch_s(rng):
    model = chains.normed()
    variables, inputs = chains.variables(model, rng), chains.image(rng)
    _, changed = model.apply(variables, inputs, train_from="stem", mutable=("batch_stats",))
    conv = nn.Conv(4, (3, 3)).apply({"params": variables["params"]["stem"]["conv"]}, inputs["image"])
    old, new = variables["batch_stats"]["stem"]["norm"], changed["batch_stats"]["stem"]["norm"]
    assert relative(new["mean"], 0.9 * old["mean"] + 0.1 * conv.mean((0, 1, 2))) < 1e-6
    assert relative(new["var"], 0.9 * old["var"] + 0.1 * conv.var((0, 1, 2))) < 1e-5


def test_statistics_that_may_not_change_are_an_error(rng):
    model = chains.normed()
    said = fault(model.apply, chains.variables(model, rng), chains.image(rng), train_from="blocks_0")
    assert said.startswith("stage 'blocks_0' updates a collection in training mode: name it in `mutable`")
    assert "batch_stats" in said


def test_a_collection_that_the_model_lacks_does_not_change(rng):
    model = chains.plain()
    state, changed = model.apply(chains.variables(model, rng), chains.text(rng), mutable=("batch_stats",))
    assert changed == {} and "logits" in state


def test_stages_of_one_scope_update_one_another_s_statistics(rng):
    stage = Stage("blocks_0", chains.Convolution(), ("hidden",), ("hidden",), scope="blocks")
    model = Model((stage, replace(stage, name="blocks_1")), inputs=("hidden",))
    inputs = {"hidden": rng.normal(size=(4, 5, 5, 4)).astype(np.float32)}
    normed = chains.variables(chains.normed(), rng)
    variables = {collection: {"blocks": tree["blocks_0"]} for collection, tree in normed.items()}
    _, changed = model.apply(variables, inputs, train_from="blocks_0", mutable=("batch_stats",))

    mine, hidden = {name: tree["blocks"] for name, tree in variables.items()}, inputs["hidden"]
    for _ in range(2):
        hidden, new = chains.Convolution().apply(mine, hidden, train=True, mutable=["batch_stats"])
        mine = mine | new
    assert_same_bits(changed["batch_stats"]["blocks"], mine["batch_stats"])


# -- shared scopes, constants, borrowed leaves, the scope "" ------------------------------------------------------


def test_a_shared_scope_is_one_set_of_variables_used_thrice(rng):
    model = chains.shared()
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    assert variables["params"].keys() == {"embeddings", "layers", "head"}
    hidden = model.apply(variables, inputs, stop="layers_0")["hidden"]
    for slope in chains.SLOPES:
        hidden = chains.Block().apply({"params": variables["params"]["layers"]}, hidden, None, train=False, slope=slope)
    assert_same_bits({"hidden": model.apply(variables, inputs)["hidden"]}, {"hidden": hidden})


def test_the_gradient_of_a_shared_leaf_is_the_sum_over_its_uses(rng):
    model = chains.shared()
    apart = Model(tuple(replace(stage, scope=None) for stage in model.stages))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    params = variables["params"]
    copied = {"params": {**params, **{f"layers_{i}": params["layers"] for i in range(3)}}}
    del copied["params"]["layers"]
    whole, parts = logits_grad(model, variables, inputs), logits_grad(apart, copied, inputs)
    summed = jax.tree.map(lambda a, b, c: a + b + c, *(parts[f"layers_{i}"] for i in range(3)))
    assert_close(whole["layers"], summed)


def test_constants_reach_the_module_and_the_key(rng):
    model = chains.shared()
    flat = Model(tuple(replace(stage, constants=()) for stage in model.stages))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    assert not np.array_equal(model.apply(variables, inputs)["logits"], flat.apply(variables, inputs)["logits"])
    assert model != flat and model == chains.shared()


def test_a_borrowed_leaf_is_counted_once(rng):
    model = chains.tied()
    assert [path for path in paths(model.shapes()) if "embedding" in path.split("/")] == ["embeddings/token/embedding"]
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    assert variables["params"]["head"].keys() == {"bias"}
    hidden = model.apply(variables, inputs)["hidden"]
    params = variables["params"]
    by_hand = hidden @ params["embeddings"]["token"]["embedding"].T + params["head"]["bias"]
    assert_same_bits({"logits": model.apply(variables, inputs)["logits"]}, {"logits": by_hand})


def test_the_gradient_of_a_borrowed_leaf_has_both_parts(rng):
    model = chains.tied()
    untied = Model(tuple(replace(stage, borrows=()) for stage in model.stages))
    variables, inputs = chains.variables(model, rng), chains.text(rng)
    embedding = variables["params"]["embeddings"]["token"]["embedding"]
    copied = {"params": {**variables["params"], "head": {**variables["params"]["head"], "embedding": embedding}}}
    whole, parts = logits_grad(model, variables, inputs), logits_grad(untied, copied, inputs)
    below, above = parts["embeddings"]["token"]["embedding"], parts["head"]["embedding"]
    assert min(abs(below).max(), abs(above).max()) > 0.1
    assert_close({"": whole["embeddings"]["token"]["embedding"]}, {"": below + above})


def test_the_scope_of_a_single_module_may_be_the_whole_tree(rng):
    """Somebody's own module keeps the paths its author gave it."""
    model = Model((Stage("module", chains.Convolution(), ("image",), ("hidden",), scope=""),), inputs=("image",))
    inputs = chains.image(rng)
    variables = model.init(jax.random.key(0), inputs)
    stats = {"batch_stats/norm/mean", "batch_stats/norm/var"}
    assert paths(variables).keys() == {"conv/kernel", "conv/bias", "norm/scale", "norm/bias"} | stats
    own = {"train": True, "mutable": ["batch_stats"]}
    hidden, new = chains.Convolution().apply(variables, inputs["image"], **own)
    state, changed = model.apply(variables, inputs, train_from="module", mutable=("batch_stats",))
    assert_same_bits({"hidden": state["hidden"]}, {"hidden": hidden})
    assert_same_bits(changed, new)
    assert [site.path for site in model.sites(inputs)] == ["conv", "norm"]
    assert (model.depth("conv/kernel"), model.first_use("adapters/x/conv/a")) == (0, 0)


# -- first values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", [chains.tied, chains.normed], ids=lambda chain: chain.__name__)
def test_shapes_are_those_of_init(chain, rng):
    model = chain()
    inputs = chains.inputs(model, rng)
    made, shapes = model.init(jax.random.key(0), inputs), model.shapes(inputs)
    said = {path: (leaf.shape, leaf.dtype) for path, leaf in paths(made).items()}
    assert said == {path: (leaf.shape, leaf.dtype) for path, leaf in paths(shapes).items()}
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in paths(shapes).values())


def test_shapes_of_bert():
    shapes = {
        path: leaf.shape for path, leaf in paths(chains.bert("pooler").shapes()).items() if "layers_1" not in path
    }
    assert shapes == {
        "embeddings/token/embedding": (13, 6),
        "embeddings/token_type/embedding": (2, 6),
        "embeddings/position/embedding": (16, 6),
        "embeddings/norm/scale": (6,),
        "embeddings/norm/bias": (6,),
        "layers_0/attention/query/kernel": (6, 6),
        "layers_0/attention/query/bias": (6,),
        "layers_0/attention/key/kernel": (6, 6),
        "layers_0/attention/key/bias": (6,),
        "layers_0/attention/value/kernel": (6, 6),
        "layers_0/attention/value/bias": (6,),
        "layers_0/attention/out/kernel": (6, 6),
        "layers_0/attention/out/bias": (6,),
        "layers_0/attention_norm/scale": (6,),
        "layers_0/attention_norm/bias": (6,),
        "layers_0/mlp/up/kernel": (6, 7),
        "layers_0/mlp/up/bias": (7,),
        "layers_0/mlp/down/kernel": (7, 6),
        "layers_0/mlp/down/bias": (6,),
        "layers_0/mlp_norm/scale": (6,),
        "layers_0/mlp_norm/bias": (6,),
        "pooler/dense/kernel": (6, 6),
        "pooler/dense/bias": (6,),
        "head/kernel": (6, 3),
        "head/bias": (3,),
    }


def test_shapes_of_stages_that_are_nearly_alike():
    """The same kind of module with another setting, or on another shape, has shapes of its own."""
    reads, writes = ("hidden", "noise"), ("hidden",)
    widths = {"layers_0": 3, "layers_1": 4, "layers_2": 3}
    model = Model(tuple(Stage(name, Mlp(width, "relu"), reads, writes) for name, width in widths.items()))
    for features in (5, 6):
        params = model.shapes({"hidden": jnp.zeros((1, 2, features))})["params"]
        assert {name: params[name]["up"]["kernel"].shape for name in params} == {
            name: (features, width) for name, width in widths.items()
        }


def test_first_values_depend_on_the_seed_alone(rng):
    model = chains.plain()
    first = model.init(jax.random.key(0))
    assert_same_bits(model.init(jax.random.key(0), chains.text(rng)), first)
    other = model.init(jax.random.key(1))
    assert not np.array_equal(
        other["params"]["layers_0"]["dense"]["kernel"], first["params"]["layers_0"]["dense"]["kernel"]
    )


def test_stages_of_one_kind_start_apart():
    params = chains.plain().init(jax.random.key(0))["params"]
    assert not np.array_equal(params["layers_0"]["dense"]["kernel"], params["layers_1"]["dense"]["kernel"])


@pytest.mark.parametrize("only", [("head",), ("layers_1", "head"), ("embeddings",), ()])
def test_only_the_named_stages_are_made_and_as_in_the_whole(only):
    model = chains.plain()
    whole = model.init(jax.random.key(3))["params"]
    assert_same_bits(model.init(jax.random.key(3), only=only), {"params": {name: whole[name] for name in only}})


def test_only_of_a_shared_scope_is_the_scope_s():
    model = chains.shared()
    whole = model.init(jax.random.key(3))["params"]
    assert_same_bits(model.init(jax.random.key(3), only=("layers_2",)), {"params": {"layers": whole["layers"]}})


def test_only_knows_its_stages():
    assert "no stage 'haed'; did you mean 'head'" in fault(chains.plain().init, jax.random.key(0), only=("haed",))


def test_the_reference_s_initialisers():
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings", "type_vocab_size")
    model = chains.bert("pooler", num_hidden_layers=1, initializer_range=0.05, **dict.fromkeys(sizes, 24))
    for path, leaf in paths(model.init(jax.random.key(0), only=model.names[:-1])).items():
        if path.endswith("scale"):
            assert (leaf == 1).all()
        elif path.endswith("bias"):
            assert (leaf == 0).all()
        else:  # 576 draws from a normal distribution, within six standard errors
            assert abs(np.std(leaf) / 0.05 - 1) < 6 / np.sqrt(2 * leaf.size), path
            assert abs(np.mean(leaf) / 0.05) < 6 / np.sqrt(leaf.size), path


def test_an_example_stands_for_inputs_that_cannot_be_guessed(rng, seed):
    model, inputs = chains.resnet(), chains.image(rng)
    assert "shapes of image cannot be guessed" in fault(model.shapes)
    known = replace(model, info=ModelInfo(example={"image": jax.ShapeDtypeStruct((1, 9, 9, 2), jnp.float32)}))
    assert known == model
    assert_same_bits(known.init(jax.random.key(seed)), model.init(jax.random.key(seed), inputs))
    assert known.sites() == model.sites(inputs) and known.attach(model.stages[-1], at="head").shapes()
    assert {site.kind for site in known.sites()} == {"conv", "norm"}


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


@pytest.mark.parametrize("chain", [chains.plain, chains.shared, chains.bert], ids=lambda chain: chain.__name__)
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


@named
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
