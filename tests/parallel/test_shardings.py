from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import tl_jax as tl
from tests import chains
from tl_jax.errors import InputError
from tl_jax.parallel.shardings import follow, parts, rows, specs, without
from tl_jax.rules import Rule
from tl_jax.trees import by_path

SIZES = {"data": 2, "fsdp": 4, "tensor": 2}


def shapes(**leaves: tuple[int, ...]) -> dict[str, Any]:
    """Params of one leaf a scope, each called after its keyword: `query__kernel` is `query/kernel`."""
    tree: dict[str, Any] = {}
    for name, shape in leaves.items():
        inner = tree
        *scopes, last = name.split("__")
        for scope in scopes:
            inner = inner.setdefault(scope, {})
        inner[last] = np.zeros(shape, np.float32)
    return {"params": tree}


def test_bert_with_adapters() -> None:
    """Columns into heads and the wide layer, rows out of them; adapters as their kernels; what is small is whole."""
    model = chains.bert("pooler", num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=16)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), model.shapes())
    plan = tl.methods.lora(rank=2, targets="all")(model, variables, jax.random.key(0))
    found = specs(plan.variables, {"data": 1, "fsdp": 2, "tensor": 2})
    assert found.keys() == by_path(plan.variables).keys()
    layer = "params/layers_0/"
    for name in ("attention/query", "attention/key", "attention/value", "mlp/up"):
        assert found[f"{layer}{name}/kernel"] == P("fsdp", "tensor")
        assert found[f"{layer}{name}/bias"] == P("tensor")
        assert found[f"adapters/lora/layers_0/{name}/a"] == P("fsdp")
        assert found[f"adapters/lora/layers_0/{name}/b"] == P(None, "tensor")
    for name in ("attention/out", "mlp/down"):
        assert found[f"{layer}{name}/kernel"] == P("tensor", "fsdp")
        assert found[f"{layer}{name}/bias"] == P()
        assert found[f"adapters/lora/layers_0/{name}/a"] == P("tensor")
        assert found[f"adapters/lora/layers_0/{name}/b"] == P(None, "fsdp")
    assert found["params/embeddings/position/embedding"] == P(None, "fsdp")
    assert found["params/pooler/dense/kernel"] == found["params/head/kernel"] == P("fsdp")
    assert {spec for path, spec in found.items() if "norm" in path} == {P()}


def test_an_axis_that_does_not_divide_leaves_the_dimension_whole() -> None:
    variables = shapes(attention__query__kernel=(6, 8), attention__out__kernel=(7, 12), mlp__up__kernel=(8, 3))
    found = specs(variables, SIZES)
    assert found["params/attention/query/kernel"] == P(None, "tensor")
    assert found["params/attention/out/kernel"] == P(None, "fsdp")
    assert found["params/mlp/up/kernel"] == P("fsdp")


def test_an_axis_of_one_device_is_none() -> None:
    sizes = {"data": 8, "fsdp": 1, "tensor": 1}
    assert set(specs(shapes(attention__query__kernel=(8, 8), a__embedding=(8, 8)), sizes).values()) == {P()}


def test_rules_of_ones_own() -> None:
    variables = shapes(dense__kernel=(8, 16), dense__bias=(16,))
    variables["adapters"] = {"lora": {"dense": {"a": np.zeros((8, 2)), "b": np.zeros((2, 16))}}}
    found = specs(variables, SIZES, [("dense/kernel", P(("data", "fsdp"), "tensor")), ("adapters/.*/b", P())])
    assert found["params/dense/kernel"] == P(("data", "fsdp"), "tensor")
    assert found["params/dense/bias"] == P()
    assert found["adapters/lora/dense/a"] == P(("data", "fsdp"))
    assert found["adapters/lora/dense/b"] == P()  # a rule of its own goes before the kernel's


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("dens/.*", P("fsdp"))], r"'dens/\.\*' decides nothing: absent.*nearest: dense"),
        ([(".*", P()), ("dense/bias", P("fsdp"))], "shadowed"),
        ([("dense/kernel", "fsdp")], r"dense/kernel 'fsdp'; where it lies must be a jax.sharding.PartitionSpec"),
        ([("dense/kernel", P("model"))], r"dense/kernel on the axis 'model'; choose from data, fsdp, tensor"),
        ([("dense/bias", P(None, "fsdp"))], r"dense/bias .*more entries than it has dimensions: \[16\]"),
        ([Rule("dense/(", P())], "is not a regular expression"),
    ],
)
def test_rules_that_cannot_be(rules: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        specs(shapes(dense__kernel=(8, 16), dense__bias=(16,)), SIZES, rules)


def test_a_square_leaf_is_not_cut_twice_by_one_axis() -> None:
    """Where the rank is the width, both dimensions of an adapter leaf are as long as the kernel's."""
    variables = shapes(dense__kernel=(8, 8))
    variables["adapters"] = {"lora": {"dense": {"a": np.zeros((8, 8)), "scale": np.zeros(8), "one": np.zeros(())}}}
    found = specs(variables, SIZES, [("dense/kernel", P("fsdp", "tensor"))])
    assert found["adapters/lora/dense/a"] == P("fsdp", "tensor")
    assert found["adapters/lora/dense/scale"] == P("tensor")
    assert found["adapters/lora/dense/one"] == P()


def test_what_belongs_to_a_parameter_follows_it() -> None:
    known = {"params/dense/kernel": ((8, 16), P("fsdp", "tensor"))}
    assert follow("opt_state/1/inner_states/params/0/mu/params/dense/kernel", (8, 16), known) == P("fsdp", "tensor")
    assert follow("trainable/params/dense/kernel", (8, 16), known) == P("fsdp", "tensor")
    assert follow("opt_state/0/v_row/params/dense/kernel", (8,), known) == P()  # factored: of another shape
    assert follow("opt_state/0/count", (), known) == P()
    assert follow("trainable/params/kernel", (8, 16), known) == P()


def test_rows_are_split_as_far_as_they_go() -> None:
    assert rows((16, 40), SIZES) == P(("data", "fsdp"))
    assert rows((2, 16, 40), SIZES, axis=1) == P(None, ("data", "fsdp"))
    assert rows((6, 40), SIZES) == P("data")  # 3 a part, which fsdp does not divide
    assert rows((4,), SIZES) == P("data")
    assert rows((1, 40), SIZES) == P()


def test_what_is_stored_and_what_is_used() -> None:
    assert parts(P(("data", "fsdp"), "tensor"), SIZES) == 16
    assert parts(P(), SIZES) == 1
    assert without(P(("data", "fsdp"), "tensor"), "data", "fsdp") == P(None, "tensor")
    assert without(P("tensor", "fsdp"), "data", "fsdp") == P("tensor", None)
