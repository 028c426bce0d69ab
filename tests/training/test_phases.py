from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import chains
from tests.training import toy
from tl_jax.groups import FROZEN, Group
from tl_jax.training.averaging import average
from tl_jax.training.optimizer import OptimizerSpec, decay_labels
from tl_jax.training.phases import labels_in, phase_at, phases, starts
from tl_jax.training.state import create, from_flat, own, thaw, to_flat, variables
from tl_jax.training.step import compiled_train_step
from tl_jax.trees import by_path

RULES = [
    ("head/.*", Group("top")),
    ("layers_1/.*", Group("middle", thaw=1)),
    ("layers_0/.*", Group("bottom", thaw=2, lr=0.5)),
    (".*", FROZEN),
]
SPEC = OptimizerSpec(clip=None)


@given(st.integers(1, 8), st.integers(1, 400), st.integers(1, 60))
def test_phases_start_in_order_and_none_but_the_last_exceeds_an_epoch(count: int, total: int, per_epoch: int) -> None:
    found = starts(count, total, per_epoch)
    assert len(found) == count and found[0] == 0 and found[-1] < total
    assert list(found) == sorted(found)
    lengths = np.diff(found)
    assert (lengths <= per_epoch).all()
    assert (lengths == per_epoch).all() or (np.ptp([*lengths, total - found[-1]]) <= 1)
    for step in range(total):
        phase = phase_at(found, step)
        assert found[phase] <= step and (phase + 1 == count or step < found[phase + 1])


def test_what_trains_in_each_phase(rng: np.random.Generator) -> None:
    labels = toy.label(toy.start(chains.plain(), rng), RULES)
    assert phases(labels) == 3
    homes = [{p.split("/")[1] for p, g in by_path(labels_in(labels, n)).items() if g is not FROZEN} for n in range(3)]
    assert homes == [{"head"}, {"head", "layers_1"}, {"head", "layers_1", "layers_0"}]
    assert phases(toy.label(toy.start(chains.plain(), rng), [(".*", Group("all"))])) == 1


def run(labels: Any, state: Any, steps: list[tuple[int, dict[str, Any]]], rate: float) -> Any:
    """One step for each (phase, batch), thawing where the phase changes."""
    model, before = chains.plain(), 0
    for phase, batch in steps:
        now = labels_in(labels, phase)
        if phase > before:
            state, before = thaw(state, now, SPEC.build(now)), phase
        state, metrics = compiled_train_step(model, toy.loss, SPEC, now)(own(state), batch, toy.hyper(rate))
        assert metrics["finite"]
    return state


@pytest.mark.parametrize("averaged", [False, True])
def test_thawing(averaged: bool, rng: np.random.Generator) -> None:
    """Bit-identical before; moments carried; a first update at most the rate; the same bits from a checkpoint."""
    model = chains.plain()
    values = toy.start(model, rng)
    labels = decay_labels(toy.label(values, RULES))
    batches = [toy.batch(model, rng) for _ in range(9)]
    first = labels_in(labels, 0)
    state = create(values, first, SPEC.build(first), jax.random.key(1), averaged=averaged)
    rate = 1e-2
    if averaged:
        labels_hyper = {**toy.hyper(rate), "ema": np.float32(0.9)}
        state, _ = compiled_train_step(model, toy.loss, SPEC, first)(own(state), batches[0], labels_hyper)
        now = labels_in(labels, 1)
        thawed = thaw(state, now, SPEC.build(now))
        new = {p for p in by_path(thawed.average) if p not in by_path(state.average)}
        assert new and all(p.startswith("params/layers_1/") for p in new)
        assert toy.bits([by_path(thawed.average)[p] for p in new]) == toy.bits([by_path(values)[p] for p in new])
        assert toy.bits(state.average) == toy.bits([by_path(thawed.average)[p] for p in by_path(state.average)])
        return
    state = run(labels, state, [(0, b) for b in batches[:5]], rate)
    still = {p: leaf for p, leaf in by_path(variables(state)).items() if "layers_" in p or "embeddings" in p}
    assert still and all(np.array_equal(leaf, by_path(values)[p]) for p, leaf in still.items())

    now = labels_in(labels, 1)
    thawed = thaw(state, now, SPEC.build(now))
    old, new = by_path(state.opt_state), by_path(thawed.opt_state)
    assert set(old) <= set(new) and toy.bits([new[p] for p in old]) == toy.bits(list(old.values()))
    counts = sorted(int(leaf) for p, leaf in new.items() if p.endswith("count"))
    assert set(counts) == {0, 5}
    before = by_path(variables(thawed))
    after = by_path(variables(run(labels, thawed, [(1, batches[5])], rate)))
    moved = [np.abs(np.asarray(after[p]) - before[p]).max() for p in before if "/layers_1/" in p]
    assert 0 < max(moved) <= rate * (1 + 1e-5)

    # A checkpoint of any phase, also one taken on the boundary, goes on to the same bits.
    whole = run(labels, own(state), [(1, batches[5]), (1, batches[6]), (2, batches[7]), (2, batches[8])], rate)
    half = run(labels, own(state), [(1, batches[5]), (1, batches[6])], rate)
    fresh = create(values, now, SPEC.build(now), jax.random.key(99))
    again = from_flat(fresh, {name: np.asarray(leaf) for name, leaf in to_flat(half).items()})
    last = labels_in(labels, 2)
    again = run(labels, thaw(again, last, SPEC.build(last)), [(2, batches[7]), (2, batches[8])], rate)
    assert toy.bits(variables(again)) == toy.bits(variables(whole))


def test_without_a_count_of_its_own_the_first_update_would_be_too_large(rng: np.random.Generator) -> None:
    """Why each thaw has a branch: in one branch Adam's count has run while the leaf was frozen."""
    model = chains.plain()
    values = toy.start(model, rng)
    flat = [(pattern, g if g is FROZEN else Group("all")) for pattern, g in RULES]
    labels = decay_labels(toy.label(values, flat))
    first = decay_labels(toy.label(values, [("head/.*", Group("all")), (".*", FROZEN)]))
    state = create(values, first, SPEC.build(first), jax.random.key(1))
    batch = toy.batch(model, rng)
    for _ in range(200):
        state, _ = compiled_train_step(model, toy.loss, SPEC, first)(state, batch, toy.hyper(1e-2))
    thawed = thaw(state, labels, SPEC.build(labels))
    before = by_path(variables(thawed))
    after, _ = compiled_train_step(model, toy.loss, SPEC, labels)(own(thawed), batch, toy.hyper(1e-2))
    moved = [np.abs(np.asarray(by_path(variables(after))[p]) - before[p]).max() for p in before if "/layers_1/" in p]
    assert max(moved) > 1.1e-2


def test_the_average_follows_its_definition(rng: np.random.Generator) -> None:
    model = chains.plain()
    values = toy.start(model, rng)
    labels = decay_labels(toy.label(values, [("head/.*", Group("all")), (".*", FROZEN)]))
    state = create(values, labels, SPEC.build(labels), jax.random.key(1), averaged=True)
    step = compiled_train_step(model, toy.loss, SPEC, labels)
    expected = {p: np.asarray(leaf, np.float64) for p, leaf in by_path(state.trainable).items()}
    for t in range(30):
        state, _ = step(state, toy.batch(model, rng), {**toy.hyper(1e-2), "ema": np.float32(0.6)})
        decay = min(0.6, (1 + t) / (10 + t))
        leaves = by_path(state.trainable)
        expected = {p: decay * e + (1 - decay) * np.asarray(leaves[p], np.float64) for p, e in expected.items()}
    toy.close(by_path(state.average), expected, 1e-5)
    found = by_path(variables(state))  # what is evaluated and kept
    assert all(np.array_equal(found[p], leaf) for p, leaf in by_path(state.average).items())
    assert any(not np.array_equal(found[p], leaf) for p, leaf in by_path(state.trainable).items())
    restored = from_flat(state, {name: np.asarray(leaf) for name, leaf in to_flat(state).items()})
    assert toy.bits(restored.average) == toy.bits(state.average)
    with pytest.raises(ValueError, match="give the step hyper="):
        step(state, toy.batch(model, rng), toy.hyper())
    assert average(None, {}, None, state.step) is None
