"""The variables of a chain: their first values, statistics that training moves, scopes shared and leaves lent."""

from __future__ import annotations

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chains
from tests.chains import fault, logits_grad
from tests.parity import assert_close, assert_same_bits, relative
from tl_jax.model import Model, ModelInfo
from tl_jax.models.layers import Mlp
from tl_jax.rules import paths
from tl_jax.stage import Stage

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


@chains.over(chains.tied, chains.normed)
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
