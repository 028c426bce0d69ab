"""Law 2 on the Llama line: each stage, the logits and the gradient as transformers computes them; and the cache."""

from __future__ import annotations

from contextlib import contextmanager
from types import MethodType
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.chains import variables as drawn_variables
from tests.conftest import some
from tests.models.decoders import LENGTH, TYPES, draw, inputs, rotation
from tests.parity import ROUNDING, assert_parity, module_scales, relative
from tl_jax.generation import empty_cache
from tl_jax.model import Model
from tl_jax.models.families import class_name, family
from tl_jax.models.layers import ACTIVATIONS
from tl_jax.rules import map_paths, paths

every = pytest.mark.parametrize("model_type", TYPES)
one = pytest.mark.parametrize("model_type", some(TYPES))


def reference_model(model_type: str, raw: dict[str, Any], seed: int):
    """The language model of transformers with no parameter at its initial value, and of a mild draw.

    Tokens of unit size and kernels of 0.2, not 0.3 for both: there the first norm multiplies gradients by three and
    later layers undo one another. One such net (qwen2, 3 layers) with its hidden channels in another order, which is
    the same function, moved transformers' own gradient from 1.6e-6 off its float64 to 3e-6 or 8e-6.
    """
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **raw)
    config._attn_implementation = "eager"
    model = getattr(transformers, class_name(model_type, "ForCausalLM"))(config).eval()
    generator = torch.Generator().manual_seed(seed % 2**31)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            leaf.normal_(0, 1.0 if "embed_tokens" in name else 0.2, generator=generator)
            if name.endswith("norm.weight"):
                leaf.add_(1)
    return model


def reference_run(model, inputs, weights) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What each stage writes, and by its foreign name the gradient of `loss` for every parameter."""
    import torch

    written: dict[str, Any] = {}

    def keep(name):
        def hook(module, args, out):
            written[name] = out[0] if isinstance(out, tuple) else out

        return hook

    parts = {"embeddings": model.model.embed_tokens, "norm": model.model.norm, "head": model.lm_head}
    parts |= {f"layers_{i}": layer for i, layer in enumerate(model.model.layers)}
    hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    model(
        input_ids=torch.tensor(inputs["tokens"]).long(),
        attention_mask=torch.tensor(np.ascontiguousarray(inputs["mask"])).long(),
        use_cache=False,
    )
    for hook in hooks:
        hook.remove()
    dtype = next(model.parameters()).dtype
    hidden, end = (torch.tensor(w, dtype=dtype) for w in weights)
    model.zero_grad()
    ((written["norm"] * hidden).sum() + (written["head"] * end).sum()).backward()
    gradient = {name: leaf.grad.numpy() for name, leaf in model.named_parameters()}
    return {name: value.detach().numpy() for name, value in written.items()}, gradient


@contextmanager
def in_float64(model):
    """The model with norms and softmax in float64 too, where transformers has them in float32 whatever it is given."""
    import torch

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def softmax(x, dim, dtype=None):
        return torch.softmax(x, dim)

    model = model.double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(norm, module)
    with mock.patch("torch.nn.functional.softmax", softmax):
        yield model


def model_of(model_type: str, raw: dict[str, Any], pooling: str = "none") -> Model:
    architecture = family(model_type)
    return Model(architecture.stages(architecture.CONFIG({"model_type": model_type, **raw}), pooling))


def ours(model_type: str, tensors: dict[str, np.ndarray], shapes: Any) -> Any:
    """Foreign tensors in our tree, through the family's name map: every one of them has a place."""
    by_path = {}
    for name, value in tensors.items():
        path, transform = family(model_type).NAMES.to_canonical(name)
        by_path[path] = value.T if transform == "transpose" else value
    assert len(by_path) == len(tensors) and {p: v.shape for p, v in by_path.items()} == {
        p: leaf.shape for p, leaf in paths(shapes).items()
    }
    return map_paths(lambda path, _: by_path[path], shapes)


def check_parity(model_type: str, raw: dict[str, Any], side: str, rng: np.random.Generator, seed: int) -> None:
    print(model_type, side, raw)
    reference, given = reference_model(model_type, raw, seed), inputs(raw, rng, side)
    model = model_of(model_type, raw)
    shapes = model.shapes()["params"]
    params = ours(model_type, {name: leaf.detach().numpy() for name, leaf in reference.named_parameters()}, shapes)
    at = given["mask"]
    weights = tuple(rng.normal(size=(*at.shape, n)) * at[..., None] for n in (raw["hidden_size"], raw["vocab_size"]))

    def loss(params):
        state, written = given, {}
        for name, after in zip(model.names, (*model.names[1:], None), strict=True):
            state = model.apply({"params": params}, state, start=name, stop=after)
            written[name] = state["hidden" if name != "head" else "logits"]
        hidden, end = (jnp.asarray(w, jnp.float32) for w in weights)
        return (state["hidden"] * hidden).sum() + (state["logits"] * end).sum(), written

    with jax.default_matmul_precision("highest"):
        gradient, written = jax.jit(jax.grad(loss, has_aux=True))(params)
    single, single_gradient = reference_run(reference, given, weights)
    with in_float64(reference):
        exact, exact_gradient = reference_run(reference, given, weights)

    assert written.keys() == single.keys()
    for name in written:
        assert_parity(np.asarray(written[name])[at], single[name][at], exact[name][at], name)
    mine, theirs, best = (
        paths(tree)
        for tree in (gradient, ours(model_type, single_gradient, shapes), ours(model_type, exact_gradient, shapes))
    )
    scales = module_scales(best)
    for path in best:
        assert_parity(mine[path], theirs[path], best[path], f"gradient of {path}", scales[path])


@every
def test_a_drawn_configuration(model_type, rng, seed):
    check_parity(model_type, draw(model_type, rng), str(rng.choice(["left", "right"])), rng, seed)


@pytest.mark.full
@every
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["default", "linear", "llama3"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_rotation(model_type, side, kind, tied, rng, seed):
    raw = draw(model_type, rng, tie_word_embeddings=tied)
    for key in ("rope_parameters", "rope_scaling", "rope_theta"):
        raw.pop(key, None)
    check_parity(model_type, raw | rotation(kind, rng), side, rng, seed)


@pytest.mark.full
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_every_activation(act, rng, seed):
    check_parity("llama", draw("llama", rng, hidden_act=act), "right", rng, seed)


# -- the chain ----------------------------------------------------------------------------------------------------


@every
def test_stages_and_their_parameters(model_type, rng):
    raw = draw(model_type, rng, num_hidden_layers=2, tie_word_embeddings=False)
    chain = ("embeddings", "layers_0", "layers_1", "norm")
    assert model_of(model_type, raw).names == (*chain, "head")
    assert model_of(model_type, raw, "last").names == (*chain, "pooler")
    untied, tied = (model_of(model_type, raw | {"tie_word_embeddings": t}) for t in (False, True))
    assert set(paths(untied.shapes()["params"])) - set(paths(tied.shapes()["params"])) == {"head/kernel"}
    assert tied.stages[-1].borrows == (("embedding", "embeddings/token/embedding"),)
    assert model_of(model_type, raw, "last").packs


@every
def test_alike_layers_differ_by_constants_alone(model_type, rng):
    raw = draw(model_type, rng, num_hidden_layers=3)
    layers = [stage for stage in model_of(model_type, raw).stages if stage.name.startswith("layers_")]
    assert len({stage.module for stage in layers}) == 1
    assert len({tuple(name for name, _ in stage.constants) for stage in layers}) == 1


@every
def test_the_name_map_knows_every_parameter_both_ways(model_type, rng):
    raw, names = draw(model_type, rng, tie_word_embeddings=False), family(model_type).NAMES
    reference = dict(reference_model(model_type, raw, 0).named_parameters())
    known = paths(model_of(model_type, raw).shapes()["params"])
    assert {names.to_foreign(path, "model.", classifier=True)[0] for path in known} == reference.keys()
    for foreign in reference:
        assert names.to_canonical(foreign)[0] in known
        assert names.to_canonical(foreign.removeprefix("model.")) == names.to_canonical(foreign)


def test_packed_examples_do_not_see_each_other(rng):
    """Windows and positions restart with every example, so two in one row are what each is alone."""
    raw = draw("qwen3", rng, num_hidden_layers=2, use_sliding_window=True, sliding_window=2, max_window_layers=1)
    model = model_of("qwen3", raw)
    variables = drawn_variables(model, rng)
    tokens = rng.integers(0, raw["vocab_size"], (1, 8))
    packed = {
        "tokens": tokens,
        "segments": np.asarray([[1, 1, 1, 2, 2, 2, 2, 0]]),
        "positions": np.asarray([[0, 1, 2, 0, 1, 2, 3, 0]]),
    }
    together = np.asarray(model.apply(variables, packed)["logits"])[0]
    for part in (slice(0, 3), slice(3, 7)):
        alone = model.apply(variables, {"tokens": tokens[:, part]})["logits"][0]
        assert relative(together[part], alone) <= ROUNDING


def test_attention_dropout_follows_the_example(rng):
    """Law 7: what is dropped depends neither on the row nor on the padding."""
    raw = draw("llama", rng, attention_dropout=0.5, num_hidden_layers=1)
    model = model_of("llama", raw)
    variables = drawn_variables(model, rng)
    tokens, noise = rng.integers(0, raw["vocab_size"], (2, 6)), rng.integers(0, 2**32, (2, 6), np.uint32)

    def run(tokens, noise, mask, **more):
        state = {"tokens": tokens, "noise": noise, "mask": mask, **more}
        return np.asarray(model.apply(variables, state, train_from="embeddings", key=jax.random.key(3))["logits"])

    plain = run(tokens, noise, np.ones((2, 6), bool))
    assert relative(plain, model.apply(variables, {"tokens": tokens})["logits"]) > 1e-3
    left = [np.pad(x, ((0, 0), (3, 0))) for x in (tokens, noise, np.ones((2, 6), bool))]
    assert relative(run(*left)[:, 3:], plain) <= ROUNDING
    assert relative(run(tokens[::-1], noise[::-1], np.ones((2, 6), bool))[::-1], plain) <= ROUNDING


# -- the cache ----------------------------------------------------------------------------------------------------


@one
@pytest.mark.parametrize("side", ["left", "right"])
def test_decoding_with_a_cache_equals_the_full_forward(model_type, side, rng):
    """A few tokens at a time, one among them, by columns of a padded batch."""
    raw = draw(model_type, rng)
    model, given = model_of(model_type, raw), inputs(raw, rng, side)
    variables = drawn_variables(model, rng)
    positions = np.maximum(np.cumsum(given["mask"], axis=-1) - 1, 0)
    whole = np.asarray(model.apply(variables, {**given, "positions": positions})["logits"])
    seen = {**variables, "cache": empty_cache(model, variables, len(positions), LENGTH)}
    parts = []
    for columns in np.split(np.arange(LENGTH), [1, 4, 5]):
        state = {"positions": positions, **given}
        out, changed = model.apply(seen, {name: value[:, columns] for name, value in state.items()}, mutable=("cache",))
        seen |= changed
        parts.append(np.asarray(out["logits"]))
    assert relative(np.concatenate(parts, axis=1)[given["mask"]], whole[given["mask"]]) <= ROUNDING


@one
def test_texts_go_on_behind_their_own_padding(model_type, rng):
    """Prompts padded on the right, then tokens for all of them: what lies between belongs to nobody."""
    raw = draw(model_type, rng)
    model = model_of(model_type, raw)
    variables = drawn_variables(model, rng)
    lengths, more = np.asarray([4, 1, 3]), 3
    texts = rng.integers(0, raw["vocab_size"], (3, 4 + more))
    whole = np.asarray(model.apply(variables, {"tokens": texts})["logits"])
    mask = np.arange(4) < lengths[:, None]
    prompt = {"tokens": texts[:, :4], "mask": mask, "positions": np.where(mask, np.arange(4), 0)}
    seen = {**variables, "cache": empty_cache(model, variables, 3, 4 + more)}
    seen |= model.apply(seen, prompt, mutable=("cache",))[1]
    at = lengths[:, None] + np.arange(more)
    rest = {"tokens": np.take_along_axis(texts, at, axis=1), "positions": at}
    out, _ = model.apply(seen, rest, mutable=("cache",))
    assert relative(out["logits"], np.take_along_axis(whole, at[..., None], axis=1)) <= ROUNDING


def test_a_first_call_makes_the_cache_and_a_full_one_gives_nan(rng):
    raw = draw("llama", rng)
    model = model_of("llama", raw)
    variables = drawn_variables(model, rng)
    tokens = rng.integers(0, raw["vocab_size"], (2, 4))
    out, changed = model.apply(variables, {"tokens": tokens}, mutable=("cache",))
    assert relative(out["logits"], model.apply(variables, {"tokens": tokens})["logits"]) == 0
    assert (
        set(changed) == {"cache"}
        and "cache" not in model.shapes()
        and set(changed["cache"]) == {name for name in model.names if name.startswith("layers_")}
    )
    next_token = {"tokens": tokens[:, :1], "positions": np.full((2, 1), 4)}
    beyond, _ = model.apply({**variables, **changed}, next_token, mutable=("cache",))
    assert np.isnan(beyond["logits"]).all()
