"""Law 2 on every family of encoders: each stage, the classifier and the gradient as transformers computes them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.encoders import ENCODERS, Encoder
from tests.parity import assert_parity, module_scales
from tl_jax.model import Model
from tl_jax.models.families import class_name, family
from tl_jax.models.heads import classifier
from tl_jax.models.layers import ACTIVATIONS, POOLINGS
from tl_jax.rules import map_paths, paths

LABELS = 5
KINDS = ("Model", "ForSequenceClassification")
every = pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.model_type)


def reference_model(encoder: Encoder, kind: str, raw: dict[str, Any], seed: int):
    """The model of transformers with no parameter near zero or one."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(encoder.model_type, num_labels=LABELS, **raw)
    config._attn_implementation = "eager"
    model = getattr(transformers, class_name(encoder.model_type, kind))(config).eval()
    generator = torch.Generator().manual_seed(seed % 2**31)
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.normal_(0, 0.3, generator=generator)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.add_(1)
    return model


def reference_run(encoder, model, inputs, weights) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What each stage writes, and by its foreign name the gradient of `loss` for every parameter."""
    import torch

    given = {key: torch.tensor(value) for key, value in inputs.items()}
    dtype = next(model.parameters()).dtype
    typed = {"token_type_ids": given["token_type"].long()} if encoder.has_types else {}
    out = model(
        input_ids=given["tokens"].long(), attention_mask=given["mask"].long(), output_hidden_states=True, **typed
    )
    top = out.hidden_states[-1]
    last = out.logits if "logits" in out else out.pooler_output if encoder.pooler else top[:, 0]
    hidden, end = (torch.tensor(w, dtype=dtype) for w in weights)
    model.zero_grad()
    ((top * hidden).sum() + (last * end).sum()).backward()
    gradient = {name: leaf.grad.numpy() for name, leaf in model.named_parameters()}
    names = ["embeddings", *(f"layers_{i}" for i in range(len(out.hidden_states) - 1))]
    written = dict(zip(names, out.hidden_states, strict=True)) | {"end": last}
    return {name: value.detach().numpy() for name, value in written.items()}, gradient


def model_of(encoder: Encoder, kind: str, raw: dict[str, Any]) -> Model:
    """Our chain for a class of transformers."""
    architecture = family(encoder.model_type)
    pooling = "pooler" if encoder.pooler or kind != "Model" else "cls"
    model = Model(architecture.stages(architecture.CONFIG(raw), pooling))
    return model if kind == "Model" else model.attach(classifier(LABELS, raw))


def ours(encoder: Encoder, tensors: dict[str, np.ndarray], shapes: Any) -> Any:
    """Foreign tensors in our tree, through the family's name map: every one of them has a place."""
    by_path = {}
    for name, value in tensors.items():
        path, transform = family(encoder.model_type).NAMES.to_canonical(name)
        by_path[path] = value.T if transform == "transpose" else value
    assert len(by_path) == len(tensors) and {p: v.shape for p, v in by_path.items()} == {
        p: leaf.shape for p, leaf in paths(shapes).items()
    }
    return map_paths(lambda path, _: by_path[path], shapes)


def check_parity(encoder: Encoder, kind: str, raw: dict[str, Any], rng: np.random.Generator, seed: int) -> None:
    print(kind, raw)
    reference, inputs = reference_model(encoder, kind, raw, seed), encoder.inputs(raw, rng)
    model = model_of(encoder, kind, raw)
    shapes = model.shapes()["params"]
    params = ours(encoder, {name: leaf.detach().numpy() for name, leaf in reference.named_parameters()}, shapes)
    (rows, length), width = inputs["tokens"].shape, params["embeddings"]["token"]["embedding"].shape[1]
    weights = (
        rng.normal(size=(rows, length, width)) * inputs["mask"][..., None],
        rng.normal(size=(rows, width if kind == "Model" else LABELS)),
    )

    def loss(params):
        state, written = inputs, {}
        for name, after in zip(model.names, (*model.names[1:], None), strict=True):
            state = model.apply({"params": params}, state, start=name, stop=after)
            written[name] = state["hidden"]
        written = {name: value for name, value in written.items() if name not in ("pooler", "head")}
        written["end"] = state["logits" if kind != "Model" else "pooled"]
        hidden, end = (jnp.asarray(w, jnp.float32) for w in weights)
        return (state["hidden"] * hidden).sum() + (written["end"] * end).sum(), written

    gradient, written = jax.jit(jax.grad(loss, has_aux=True))(params)
    single, single_gradient = reference_run(encoder, reference, inputs, weights)
    exact, exact_gradient = reference_run(encoder, reference.double(), inputs, weights)

    assert written.keys() == single.keys()
    for name in written:
        at = inputs["mask"] if name != "end" else slice(None)
        assert_parity(np.asarray(written[name])[at], single[name][at], exact[name][at], name)
    mine, theirs, best = (
        paths(tree)
        for tree in (gradient, ours(encoder, single_gradient, shapes), ours(encoder, exact_gradient, shapes))
    )
    scales = module_scales(best)
    for path in best:
        assert_parity(mine[path], theirs[path], best[path], f"gradient of {path}", scales[path])


@every
def test_a_drawn_configuration(encoder, rng, seed):
    check_parity(encoder, str(rng.choice(KINDS)), encoder.draw(rng), rng, seed)


@pytest.mark.full
@every
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_every_activation(encoder, act, rng, seed):
    check_parity(encoder, str(rng.choice(KINDS)), encoder.draw(rng, hidden_act=act), rng, seed)


@pytest.mark.full
@every
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [1, 3, 4, 7])
def test_heads_and_classes(encoder, kind, heads, rng, seed):
    # A width of 3 leaves a layer norm one degree of freedom: every gradient through it is a difference of nearly equal
    # numbers, and 1e-5 is below what float32 can tell. One head has a width of 6, as small as the drawn ones have.
    raw = {"num_attention_heads": heads, "hidden_size": max(6, 3 * heads), "type_vocab_size": int(rng.integers(1, 4))}
    check_parity(encoder, kind, encoder.draw(rng, **raw), rng, seed)


# -- the chain ----------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("pooling", POOLINGS)
def test_stages_and_their_parameters(encoder, pooling, rng):
    architecture = family(encoder.model_type)
    model = Model(architecture.stages(architecture.CONFIG(encoder.draw(rng, num_hidden_layers=3)), pooling))
    assert model.names == ("embeddings", "layers_0", "layers_1", "layers_2", "pooler")
    assert ("pooler" in model.shapes()["params"]) == (pooling == "pooler")
    assert model.packs


@every
@pytest.mark.parametrize("kind", KINDS)
def test_the_name_map_knows_every_parameter_both_ways(encoder, kind, rng):
    raw, names = encoder.draw(rng), family(encoder.model_type).NAMES
    reference = dict(reference_model(encoder, kind, raw, 0).named_parameters())
    known = paths(model_of(encoder, kind, raw).shapes()["params"])
    front = "" if kind == "Model" else names.prefixes[0]
    assert {names.to_foreign(path, front, classifier=kind != "Model")[0] for path in known} == reference.keys()
    for foreign in reference:
        assert names.to_canonical(foreign)[0] in known
        assert kind != "Model" or names.to_canonical(names.prefixes[0] + foreign) == names.to_canonical(foreign)


@every
def test_a_config_says_how_wide_it_is_and_how_long_a_text(encoder, rng):
    raw = encoder.draw(rng, max_position_embeddings=23, pad_token_id=1)
    config = family(encoder.model_type).CONFIG(raw)
    assert config.hidden_size == raw[encoder.keys.get("hidden_size", "hidden_size")]
    assert config.positions == (21 if "pad_token_id" in encoder.own(rng) else 23)
