"""LoRA: laws 4 and 6, its targets, and PEFT's numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tl_jax.errors import InputError
from tl_jax.groups import FROZEN, Group
from tl_jax.methods import Plan, lora, merge
from tl_jax.model import Model, ModelInfo
from tl_jax.models import bert
from tl_jax.models.layers import Dense, Module, compact, head_stage
from tl_jax.rules import map_paths, paths
from tl_jax.stage import Stage

KEY = jax.random.key(4)
ATTENTION = ("attention/query", "attention/key", "attention/value", "attention/out")


def plan_of(toy: Any, **parameters: Any) -> Plan:
    plan: Plan = lora(**parameters)(toy.model, toy.variables, KEY, toy.inputs)
    return plan


def sites_of(plan: Plan) -> list[str]:
    leaves = paths({"adapters": plan.variables["adapters"]})
    return list(dict.fromkeys(path.removeprefix("adapters/lora/").rpartition("/")[0] for path in leaves))


@partial(jax.jit, static_argnums=0)
def logits(model: Model, variables: Any, batch: Any) -> jax.Array:
    result: jax.Array = model.apply(variables, batch)["logits"]
    return result


def randomised(plan: Plan, rng: np.random.Generator) -> Any:
    """The plan's variables with adapters as after training: `b` is no longer zero."""

    def draw(path: str, leaf: Any) -> Any:
        return jnp.asarray(rng.normal(size=leaf.shape) * 0.1, leaf.dtype) if path.startswith("adapters/") else leaf

    return map_paths(draw, plan.variables)


def params_of(variables: Any) -> dict[str, Any]:
    return paths({"params": variables["params"]})


def difference(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max())


def trained(plan: Plan, batch: Any, tx: optax.GradientTransformation, steps: int = 20) -> Any:
    """The plan's variables after some steps on random labels, by a loop that knows nothing of plans but the labels."""
    labels = paths(plan.labels)
    start = {path: leaf for path, leaf in paths(plan.variables).items() if labels.get(path, FROZEN) is not FROZEN}
    targets = jnp.arange(4) % 3

    def variables(trainable: Any) -> Any:
        return map_paths(lambda path, leaf: trainable.get(path, leaf), plan.variables)

    def loss(trainable: Any) -> jax.Array:
        out = logits(plan.model, variables(trainable), batch)
        return optax.softmax_cross_entropy_with_integer_labels(out, targets).mean()

    @jax.jit
    def step(trainable: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(trainable), state, trainable)
        return optax.apply_updates(trainable, updates), state

    trainable, state = start, tx.init(start)
    for _ in range(steps):
        trainable, state = step(trainable, state)
    return variables(trainable)


# -- law 6 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooling", "parameters"), [("mean", {}), ("pooled", {"targets": "all", "rank": 3, "alpha": 7})]
)
def test_at_first_an_adapter_changes_nothing(
    request: pytest.FixtureRequest, pooling: str, parameters: dict[str, Any]
) -> None:
    toy = request.getfixturevalue(pooling)
    plan = plan_of(toy, **parameters)
    plain = {"params": plan.variables["params"]}
    ours, base = plan.model.apply(plan.variables, toy.batch), toy.model.apply(plain, toy.batch)
    for name in base:
        assert np.array_equal(ours[name], base[name]), name


@pytest.mark.parametrize(
    ("pooling", "parameters"),
    [
        ("mean", {"rank": 1}),
        ("mean", {"rank": 8, "alpha": 2}),
        ("pooled", {"rank": 3, "alpha": 7, "targets": "all"}),
        ("pooled", {"rank": 4, "targets": "mlp|layers_1/attention", "rslora": True}),
    ],
)
def test_factored_is_merged(
    request: pytest.FixtureRequest, rng: np.random.Generator, pooling: str, parameters: dict[str, Any]
) -> None:
    toy = request.getfixturevalue(pooling)
    plan = plan_of(toy, **parameters)
    variables = randomised(plan, rng)
    factored = logits(plan.model, variables, toy.batch)
    merged = logits(*merge(plan.model, variables), toy.batch)
    assert difference(factored, merged) <= 1e-5
    assert difference(factored, logits(plan.model, plan.variables, toy.batch)) > 1e-3  # the adapters do act


def test_factored_is_merged_under_a_shared_scope(shared: Any, rng: np.random.Generator) -> None:
    plan = plan_of(shared, rank=2, targets="layers")
    assert sites_of(plan) == ["layers/dense"]
    variables = randomised(plan, rng)
    factored = logits(plan.model, variables, shared.batch)
    assert difference(factored, logits(*merge(plan.model, variables), shared.batch)) <= 1e-5


def test_the_merged_kernel_is_the_sum(mean: Any, rng: np.random.Generator) -> None:
    plan = plan_of(mean, rank=3, alpha=6, targets="layers_0/mlp/up")
    variables = randomised(plan, rng)
    leaf = {path.rpartition("/")[2]: np.asarray(x, np.float64) for path, x in paths(variables["adapters"]).items()}
    before, after = params_of(variables), params_of(merge(plan.model, variables)[1])
    path = "layers_0/mlp/up/kernel"
    np.testing.assert_allclose(after[path], np.asarray(before[path]) + 2 * leaf["a"] @ leaf["b"], rtol=1e-6, atol=1e-6)
    assert all(after[other] is leaf for other, leaf in before.items() if other != path)


@pytest.mark.parametrize(
    ("pooling", "targets", "tx"), [("mean", "query|value", optax.sgd(0.1)), ("pooled", "all", optax.adam(1e-2))]
)
def test_after_20_steps_every_adapter_leaf_has_moved_and_no_frozen_one(
    request: pytest.FixtureRequest, pooling: str, targets: str, tx: optax.GradientTransformation
) -> None:
    toy = request.getfixturevalue(pooling)
    plan = plan_of(toy, rank=2, targets=targets)
    before, after = paths(plan.variables), paths(trained(plan, toy.batch, tx))
    labels = paths(plan.labels)
    moved = {path: not np.array_equal(before[path], after[path]) for path in before}
    assert {path for path, m in moved.items() if m} == {path for path, label in labels.items() if label is not FROZEN}
    assert set(moved) == set(labels)


@pytest.mark.parametrize("place", ["layers_0/attention/nowhere", "layers_2/attention/query", "pooler/dense"])
def test_a_leaf_that_nothing_reads_raises(mean: Any, place: str) -> None:
    plan = plan_of(mean, rank=2, targets="query")
    leaves = put(plan.variables["adapters"], ["lora", *place.split("/"), "c"], jnp.ones(2))
    with pytest.raises(InputError, match=f"adapter leaf 'adapters/lora/{place}/c' was not read"):
        plan.model.apply({**plan.variables, "adapters": leaves}, mean.batch)


def put(tree: Any, path: list[str], leaf: Any) -> Any:
    first, *rest = path
    return {**tree, first: put(tree.get(first, {}), rest, leaf) if rest else leaf}


def test_leaves_without_their_hook_raise(mean: Any) -> None:
    plan = plan_of(mean)
    with pytest.raises(InputError, match="'adapters/lora/layers_0/attention/query/a' was not read"):
        mean.model.apply(plan.variables, mean.batch)


# -- leaves and rules -------------------------------------------------------------------------------------------------


def test_what_trains(toy: Any) -> None:
    plan = plan_of(toy)
    found: dict[Any, set[str]] = {}
    for path, label in paths(plan.labels).items():
        found.setdefault(label, set()).add(path.split("/")[0])
    bases = set(toy.variables["params"])
    assert found == {Group("lora"): {"adapters"}, Group("head"): {"head"}, FROZEN: bases}
    assert plan.cut == "layers_0"
    assert plan.solver is None
    assert plan.model.hooks == (plan.method,)
    assert plan_of(toy, targets="layers_2").cut == "layers_2"


def each(*modules: str, layers: Any = range(3)) -> list[str]:
    return [f"layers_{i}/{module}" for i in layers for module in modules]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("query|value", each("attention/query", "attention/value")),
        ("attention", each(*ATTENTION)),
        ("attention/query", each("attention/query")),
        ("layers_1/attention/key", ["layers_1/attention/key"]),
        ("layers_[02]/mlp", each("mlp/up", "mlp/down", layers=(0, 2))),
        ("layers_(0|1)/(attention|mlp)/(out|down)", each("attention/out", "mlp/down", layers=(0, 1))),
        (r"layers_\d{1,2}/.*/up", each("mlp/up")),
        ("mlp/up|up", each("mlp/up")),
        ("pooler", ["pooler/dense"]),
        ("all", [*each(*ATTENTION, "mlp/up", "mlp/down"), "pooler/dense"]),
    ],
)
def test_targets(pooled: Any, targets: str, expected: list[str]) -> None:
    assert sorted(sites_of(plan_of(pooled, targets=targets))) == sorted(expected)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("query|valeu", "the target 'valeu' matches no dense module; did you mean 'value'"),
        ("quer", "did you mean 'query'"),
        ("encoder.layer.0.attention.self.query", "is layers_0/attention/query here"),
        ("bert.encoder.layer.2", "bert.encoder.layer.2 is layers_2 here"),
        ("all-linear", "choose from all, query, key, value, out, up, down"),
        ("query,value", "separate targets by |, not by commas"),
        ("token", "matches no dense module: embeddings/token is of kind embed"),
        ("attention_norm", "matches no dense module: layers_0/attention_norm is of kind norm"),
        ("layers_7", "did you mean 'layers_"),
    ],
)
def test_targets_that_match_nothing(mean: Any, targets: str, message: str) -> None:
    with pytest.raises(InputError) as said:
        plan_of(mean, targets=targets)
    assert message in str(said.value)


def test_a_dense_module_of_the_head_is_no_target(mean: Any) -> None:
    class TwoLayerHead(Module):
        @compact
        def __call__(self, pooled: jax.Array, train: bool) -> jax.Array:
            return Dense(3, name="out")(jnp.tanh(Dense(4, name="hidden")(pooled)))

    toy = replace(mean, model=mean.model.attach(Stage("head", TwoLayerHead(), ("pooled",), ("logits",)), at="head"))
    assert not any(site.startswith("head") for site in sites_of(plan_of(toy, targets="all")))
    with pytest.raises(InputError, match="head/hidden is part of the head, which trains in full"):
        plan_of(toy, targets="hidden")


def test_a_borrowed_kernel_is_no_target(tied: Any) -> None:
    assert sites_of(plan_of(tied, targets="all")) == ["stem/dense", "blocks_0/dense"]
    with pytest.raises(InputError, match="blocks_1/dense has no kernel of its own"):
        plan_of(tied, targets="blocks_1")


def test_a_model_without_dense_modules(mean: Any) -> None:
    bare = Model((mean.model.stages[0], *mean.model.stages[-2:]))
    with pytest.raises(InputError, match="no dense module outside its head"):
        lora()(bare, {"params": {"embeddings": mean.variables["params"]["embeddings"]}}, KEY)


def test_only_once(mean: Any) -> None:
    plan = plan_of(mean)
    with pytest.raises(InputError, match="LoRA leaves already: merge them first"):
        lora(rank=2)(plan.model, plan.variables, KEY)
    model, variables = merge(plan.model, plan.variables)
    assert sites_of(lora(rank=2)(model, variables, KEY)) == sites_of(plan)


def test_first_values_depend_on_key_and_place_alone(mean: Any) -> None:
    few, all_ = paths(plan_of(mean, targets="value").variables), paths(plan_of(mean, targets="all").variables)
    adapters = [path for path in few if path.startswith("adapters/") and path.endswith("/a")]
    assert len(adapters) == 3
    assert all(np.array_equal(few[path], all_[path]) for path in adapters)
    assert not np.array_equal(few[adapters[0]], few[adapters[1]])
    other = paths(lora(targets="value")(mean.model, mean.variables, jax.random.key(5)).variables)
    assert not np.array_equal(few[adapters[0]], other[adapters[0]])


def test_first_values_are_kaiming_uniform(mean: Any) -> None:
    leaves = paths(plan_of(mean, rank=512, targets="up|down").variables["adapters"]["lora"])
    for path, leaf in leaves.items():
        assert leaf.dtype == jnp.float32
        width = 20 if "/down/" in path else 12
        if path.endswith("/b"):
            assert leaf.shape == (512, 32 - width)
            assert not leaf.any()
        else:
            bound = 1 / math.sqrt(width)
            assert leaf.shape == (width, 512)
            assert 0.98 * bound < np.abs(leaf).max() <= bound
            assert np.std(leaf) == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert abs(np.mean(leaf)) < 0.05 * bound


@pytest.mark.parametrize(
    ("parameters", "scaling"),
    [
        ({}, 1),
        ({"rank": 4}, 1),
        ({"rank": 4, "alpha": 16}, 4),
        ({"rank": 16, "alpha": 8}, 0.5),
        ({"rank": 16, "alpha": 8, "rslora": True}, 2),
        ({"rank": 9, "rslora": True}, 3),
    ],
)
def test_scaling(parameters: dict[str, Any], scaling: float) -> None:
    assert lora(**parameters).scaling == scaling


def test_two_equal_methods_are_one_compilation_key(mean: Any) -> None:
    first, second = plan_of(mean, rank=2, alpha=4).model, plan_of(mean, rank=2, alpha=4.0).model
    assert first == second and hash(first) == hash(second)
    assert first != plan_of(mean, rank=2, alpha=8).model
    assert first != mean.model


# -- precision --------------------------------------------------------------------------------------------------------


def test_in_bfloat16_the_leaves_stay_float32(mean: Any, rng: np.random.Generator) -> None:
    plan = plan_of(mean, rank=2, targets="all")
    variables = randomised(plan, rng)
    model = plan.model.cast(jnp.bfloat16)
    out = jax.eval_shape(model.apply, variables, mean.batch)
    plain = jax.eval_shape(mean.model.cast(jnp.bfloat16).apply, {"params": variables["params"]}, mean.batch)
    assert {name: x.dtype for name, x in out.items()} == {name: x.dtype for name, x in plain.items()}
    assert out["hidden"].dtype == jnp.bfloat16
    assert difference(logits(model, variables, mean.batch), logits(plan.model, variables, mean.batch)) < 0.1
    gradient = jax.eval_shape(
        jax.grad(lambda a: logits(model, {**variables, "adapters": a}, mean.batch).sum()), variables["adapters"]
    )
    assert {leaf.dtype for leaf in paths(gradient).values()} == {jnp.dtype(jnp.float32)}


def test_merging_keeps_the_dtype_of_a_kernel(mean: Any, rng: np.random.Generator) -> None:
    plan = plan_of(mean, rank=2, targets="all")
    variables = randomised(plan, rng)
    half = map_paths(lambda path, x: x if path.startswith("adapters/") else x.astype(jnp.bfloat16), variables)
    merged = params_of(merge(plan.model, half)[1])
    assert {leaf.dtype for leaf in merged.values()} == {jnp.dtype(jnp.bfloat16)}
    kernel, leaves = "layers_0/mlp/up/kernel", variables["adapters"]["lora"]["layers_0"]["mlp"]["up"]
    exact = np.asarray(params_of(half)[kernel], np.float32) + np.asarray(leaves["a"]) @ np.asarray(leaves["b"])
    assert difference(merged[kernel], exact) <= 2**-8  # the rounding of bfloat16, once


def test_numpy_parameters_merge_too(mean: Any, rng: np.random.Generator) -> None:
    plan = plan_of(mean, rank=2)
    variables = randomised(plan, rng)
    loaded = jax.tree.map(np.asarray, variables)
    for a, b in zip(
        jax.tree.leaves(merge(plan.model, loaded)), jax.tree.leaves(merge(plan.model, variables)), strict=True
    ):
        assert np.array_equal(a, b)


# -- PEFT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "foreign", "alpha", "rslora"),
    [
        ("query|value", ["query", "value"], None, False),
        ("attention", ["query", "key", "value", "attention.output.dense"], 12, False),
        ("query|value|up", ["query", "value", "intermediate.dense"], 2, True),
    ],
)
def test_equal_to_peft(rng: np.random.Generator, targets: str, foreign: list[str], alpha: Any, rslora: bool) -> None:
    peft, torch, transformers = (pytest.importorskip(name) for name in ("peft", "torch", "transformers"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=36,
        max_position_embeddings=16,
        initializer_range=0.3,
        num_labels=3,
        attn_implementation="eager",
    )
    theirs = transformers.BertForSequenceClassification(config).eval()
    params: dict[str, Any] = {}
    for name, tensor in theirs.state_dict().items():
        if found := bert.NAMES.to_canonical(name):
            *modules, leaf = found[0].split("/")
            inner = params
            for module in modules:
                inner = inner.setdefault(module, {})
            inner[leaf] = np.array(tensor.numpy().T if found[1] == "transpose" else tensor.numpy())
    model = Model(bert.stages(bert.CONFIG(config.to_dict()), "pooler"), info=ModelInfo(alias=bert.NAMES.alias))
    method = lora(rank=6, alpha=alpha, targets=targets, rslora=rslora)
    plan = method(model.attach(head_stage(3)), {"params": params}, KEY)
    variables = randomised(plan, rng)
    ours = {
        path.removeprefix("adapters/lora/").rpartition("/")[0]: None
        for path in paths({"adapters": variables["adapters"]})
    }

    given = {} if alpha is None else {"lora_alpha": alpha}
    theirs = peft.get_peft_model(
        theirs, peft.LoraConfig(r=6, target_modules=foreign, use_rslora=rslora, **{"lora_alpha": 6, **given})
    ).eval()
    adapted = {
        name: module for name, module in theirs.named_modules() if hasattr(module, "lora_A") and len(module.lora_A)
    }
    assert len(adapted) == len(ours)
    for name, module in adapted.items():
        path, _ = bert.NAMES.to_canonical(name.removeprefix("base_model.model.") + ".weight") or ("", "")
        site = path.removesuffix("/kernel")
        assert site in ours
        assert module.scaling["default"] == pytest.approx(method.scaling, rel=1e-12)
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        first = paths(plan.variables)[f"adapters/lora/{site}/a"]
        bound = 1 / math.sqrt(a.shape[1])
        for drawn in (a.detach().numpy(), np.asarray(first)):
            assert 0.9 * bound < np.abs(drawn).max() <= bound
        assert not b.any() and not paths(plan.variables)[f"adapters/lora/{site}/b"].any()
        with torch.no_grad():
            a.copy_(torch.tensor(np.asarray(paths(variables)[f"adapters/lora/{site}/a"]).T))
            b.copy_(torch.tensor(np.asarray(paths(variables)[f"adapters/lora/{site}/b"]).T))
    mask = np.arange(9) < np.array([[9], [4], [6]])
    ids = rng.integers(0, 40, mask.shape)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    batch = {"tokens": jnp.asarray(ids, jnp.int32), "mask": jnp.asarray(mask)}
    assert difference(logits(plan.model, variables, batch), expected) <= 1e-5
    assert difference(logits(plan.model, plan.variables, batch), expected) > 1e-3


def test_the_default_is_that_of_peft() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig()
    assert (lora().rank, lora().scaling) == (config.r, config.lora_alpha / config.r)
    assert set(lora().targets.split("|")) == set(
        peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING["bert"]
    )
