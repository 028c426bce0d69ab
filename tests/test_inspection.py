"""What `inspect` finds is what is there: every leaf once, under the stage that owns it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import tl_jax as tl
from tests import chains
from tests.tiny import Tiny
from tl_jax import inspection
from tl_jax.rules import map_paths, paths


def test_every_leaf_is_found_once_in_the_order_of_the_chain(tiny: Tiny) -> None:
    model, variables = tl.load(tiny.mean)
    found = tl.inspect(model, variables)
    leaves = paths(variables)
    assert sorted(leaf.path for leaf in found.leaves) == sorted(leaves)
    for leaf in found.leaves:
        array = leaves[leaf.path]
        assert (leaf.shape, leaf.dtype, leaf.bytes) == (array.shape, str(array.dtype), array.nbytes)
        assert leaf.size == array.size and leaf.not_finite == 0
    assert [link.name for link in found.chain] == list(model.names)
    assert all(leaf.path.startswith(f"{link.name}/") for link in found.chain for leaf in link.leaves)
    total = sum(array.size for array in leaves.values())
    assert str(found).splitlines()[-1].startswith(f"{total:,} parameters in {len(leaves)} tensors, ")


def test_statistics_are_no_parameters(rng: np.random.Generator) -> None:
    model = chains.normed()
    variables = chains.variables(model, rng)
    size = {name: sum(leaf.size for leaf in paths(tree).values()) for name, tree in variables.items()}
    last = str(tl.inspect(model, variables)).splitlines()[-1]
    assert last.startswith(f"{size['params']:,} parameters and {size['batch_stats']:,} statistics in ")


def test_numbers_that_are_none_are_counted(tiny: Tiny) -> None:
    model, variables = tl.load(tiny.mean)
    bad = "layers_0/attention/query/kernel"

    def spoilt(path: str, leaf: np.ndarray) -> np.ndarray:
        return np.where(np.arange(leaf.size).reshape(leaf.shape) < 3, np.nan, leaf) if path == bad else leaf

    found = tl.inspect(model, map_paths(spoilt, variables))
    assert {leaf.path: leaf.not_finite for leaf in found.leaves if leaf.not_finite} == {bad: 3}
    (line,) = (line for line in str(found).splitlines() if line.startswith(bad))
    assert line.endswith("3 not finite")


def test_numbers_are_counted_in_any_layout_and_dtype(rng: np.random.Generator) -> None:
    import ml_dtypes

    block = inspection._BLOCK
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        array = np.zeros((3, block), dtype)
        at = rng.permutation(array.size)[:5]
        array.reshape(-1)[at] = np.nan, np.inf, -np.inf, np.nan, np.nan
        for view in (array, array.T, array.reshape(3, 2, -1).transpose(1, 2, 0), array[::-1]):
            assert inspection.not_finite(view) == 5
        assert inspection.not_finite(array[:, ::2]) == sum(at % block % 2 == 0)
    assert inspection.not_finite(np.array([1, 2])) == 0


def test_adapters_belong_to_the_stage_of_their_site(tiny: Tiny) -> None:
    model, variables = tl.load(tiny.mean)
    task = tl.tasks.TextClassification(labels=["a", "b"])
    plan = tl.methods.lora(rank=2)(task.attach(model), variables, jax.random.key(0))
    found = tl.inspect(plan.model, plan.variables)
    inside = {
        link.name: [leaf.path for leaf in link.leaves if leaf.path.startswith("adapters/")] for link in found.chain
    }
    assert inside["layers_1"] and all("/layers_1/" in path for path in inside["layers_1"])
    assert not inside["embeddings"] and len(found.leaves) == len(paths(plan.variables))


def test_a_stage_that_shares_its_leaves_names_the_owner(tiny: Tiny) -> None:
    from dataclasses import replace

    model, variables = tl.load(tiny.mean)
    shared = replace(
        model, stages=tuple(replace(s, scope="layers_0") if s.name == "layers_1" else s for s in model.stages)
    )
    kept: Any = {"params": {home: tree for home, tree in variables["params"].items() if home != "layers_1"}}
    links = {link.name: link for link in tl.inspect(shared, kept).chain}
    assert links["layers_1"].shares == "layers_0" and not links["layers_1"].leaves
    assert links["layers_0"].shares is None and links["layers_0"].leaves
