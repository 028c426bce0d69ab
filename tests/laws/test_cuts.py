"""Law 1: a chain cut anywhere and continued from its live keys is the whole chain, bit for bit."""

from __future__ import annotations

import jax
import pytest

from tests import chains
from tests.parity import assert_close, assert_same_bits

CHAINS = (chains.plain, chains.tied, chains.shared, chains.normed, chains.resnet)
CHAINS += (chains.bert, chains.roberta, chains.distilbert, chains.vit, chains.deit, chains.llama)
MODES = ("evaluation", "training")


def mode(model, name: str, seed: int) -> dict:
    """Keyword arguments of `apply`, and the collections that change."""
    training = {"train_from": model.names[0], "key": jax.random.key(seed)}
    return {"mutable": ("batch_stats",)} | (training if name == "training" else {})


def in_two(apply, model, variables, inputs, cut, **options):
    """The chain up to `cut`, then on from the live part of the state; the changes of both."""
    state, below = apply(model, variables, inputs, stop=cut, **options)
    live = {key: state[key] for key in model.live(cut) if key in state}
    after = {**variables, **below}
    return apply(model, after, live, start=cut, **options)


def plain_apply(model, variables, state, **options):
    return model.apply(variables, state, **options)


def compiled(model, variables, state, *, key=None, **options):
    return jax.jit(lambda v, s, k: model.apply(v, s, key=k, **options))(variables, dict(state), key)


@pytest.mark.parametrize("name", MODES)
@chains.over(*CHAINS)
def test_every_cut_gives_the_same_bits(chain, name, rng, seed):
    model = chain()
    variables, inputs, options = chains.variables(model, rng), chains.inputs(model, rng), mode(model, name, seed)
    whole, changed = model.apply(variables, inputs, **options)
    for cut in model.names:
        state, changes = in_two(plain_apply, model, variables, inputs, cut, **options)
        assert_same_bits({"logits": state["logits"]}, {"logits": whole["logits"]})
        assert_same_bits(changes, changed)


@pytest.mark.parametrize("name", MODES)
def test_every_cut_compiled_agrees_to_rounding(name, rng, seed):
    model = chains.plain(layers=1)
    variables, inputs, options = chains.variables(model, rng), chains.inputs(model, rng), mode(model, name, seed)
    whole, changed = compiled(model, variables, inputs, **options)
    for cut in ("layers_0", "pooler"):
        state, changes = in_two(compiled, model, variables, inputs, cut, **options)
        assert_close({"logits": state["logits"]}, {"logits": whole["logits"]})
        assert_close(changes, changed)


def test_training_is_not_evaluation_here(rng, seed):
    """Were dropout off in training, the law above would say nothing of the keys."""
    model = chains.plain()
    variables, inputs = chains.variables(model, rng), chains.inputs(model, rng)
    trained, _ = model.apply(variables, inputs, **mode(model, "training", seed))
    assert abs(trained["logits"] - model.apply(variables, inputs)["logits"]).max() > 1e-3
