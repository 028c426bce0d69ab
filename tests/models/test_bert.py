"""Law 2 on BERT: every stage, the pooler and the gradient as transformers computes them, on odd configurations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import assert_parity, module_scales
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.bert import CONFIG, NAMES, BertConfig, stages
from tl_jax.models.layers import ACTIVATIONS, POOLINGS
from tl_jax.rules import map_paths, paths

RAW = {
    "vocab_size": 13,
    "hidden_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 7,
}


def draw(rng: np.random.Generator, **given: Any) -> dict[str, Any]:
    """An odd configuration: what is a power of two, even or 2 elsewhere is not here."""
    heads = int(rng.choice([3, 5]))
    return {
        "vocab_size": int(rng.integers(5, 40)),
        "hidden_size": heads * int(rng.integers(2, 5)),
        "num_hidden_layers": int(rng.choice([1, 3])),
        "num_attention_heads": heads,
        "intermediate_size": 2 * int(rng.integers(3, 12)) + 1,
        "hidden_act": str(rng.choice(sorted(ACTIVATIONS))),
        "max_position_embeddings": int(rng.integers(7, 12)),
        "type_vocab_size": int(rng.choice([1, 3])),
        "layer_norm_eps": float(rng.choice([1e-5, 1e-12])),
    } | given


def draw_inputs(raw: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Four examples of which at least one is padded and one is not. Token 0, of which torch keeps no gradient, is
    padding alone."""
    rows, length = 4, 7
    lengths = np.asarray([length, 1, *rng.integers(1, length, rows - 2)])
    mask = np.arange(length) < lengths[:, None]
    return {
        "tokens": (rng.integers(1, raw["vocab_size"], (rows, length)) * mask).astype(np.int32),
        "mask": mask,
        "token_type": (rng.integers(0, raw["type_vocab_size"], (rows, length)) * mask).astype(np.int32),
    }


def reference_model(raw: dict[str, Any], seed: int):
    """transformers' BertModel with no parameter near zero or one."""
    import torch
    from transformers import BertConfig as Config
    from transformers import BertModel

    model = BertModel(Config(**raw, attn_implementation="eager")).eval()
    generator = torch.Generator().manual_seed(seed % 2**31)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            leaf.normal_(0, 0.3, generator=generator)
            if name.endswith("LayerNorm.weight"):
                leaf.add_(1)
    return model


def reference_run(model, inputs, weights) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What each stage writes, and by its foreign name the gradient of `loss` for every parameter."""
    import torch

    given = {key: torch.tensor(value) for key, value in inputs.items()}
    dtype = next(model.parameters()).dtype
    out = model(
        input_ids=given["tokens"].long(),
        attention_mask=given["mask"].long(),
        token_type_ids=given["token_type"].long(),
        output_hidden_states=True,
    )
    hidden, pooled = (torch.tensor(w, dtype=dtype) for w in weights)
    model.zero_grad()
    ((out.last_hidden_state * hidden).sum() + (out.pooler_output * pooled).sum()).backward()
    gradient = {name: leaf.grad.numpy() for name, leaf in model.named_parameters()}
    names = ["embeddings", *(f"layers_{i}" for i in range(len(out.hidden_states) - 1))]
    written = dict(zip(names, out.hidden_states, strict=True)) | {"pooler": out.pooler_output}
    return {name: value.detach().numpy() for name, value in written.items()}, gradient


def ours(tensors: dict[str, np.ndarray], shapes: Any) -> Any:
    """Foreign tensors in our tree, through the family's name map."""

    def read(path: str, leaf: Any) -> np.ndarray:
        foreign, transform = NAMES.to_foreign(path)
        value = tensors[foreign]
        value = value.T if transform == "transpose" else value
        assert value.shape == leaf.shape, path
        return value

    return map_paths(read, shapes)


def check_parity(raw: dict[str, Any], rng: np.random.Generator, seed: int) -> None:
    print(raw)
    reference, inputs = reference_model(raw, seed), draw_inputs(raw, rng)
    weights = (
        rng.normal(size=(*inputs["tokens"].shape, raw["hidden_size"])) * inputs["mask"][..., None],
        rng.normal(size=(len(inputs["tokens"]), raw["hidden_size"])),
    )
    model = Model(stages(CONFIG(raw), "pooler"))
    shapes = model.shapes()["params"]
    params = ours({name: leaf.detach().numpy() for name, leaf in reference.named_parameters()}, shapes)
    assert len(paths(params)) == len(list(reference.parameters()))

    def loss(params):
        state, written = inputs, {}
        for name, after in zip(model.names, (*model.names[1:], None), strict=True):
            state = model.apply({"params": params}, state, start=name, stop=after)
            written[name] = state["pooled" if name == "pooler" else "hidden"]
        hidden, pooled = (jnp.asarray(w, jnp.float32) for w in weights)
        return (state["hidden"] * hidden).sum() + (state["pooled"] * pooled).sum(), written

    gradient, written = jax.jit(jax.grad(loss, has_aux=True))(params)
    single, single_gradient = reference_run(reference, inputs, weights)
    exact, exact_gradient = reference_run(reference.double(), inputs, weights)

    assert written.keys() == single.keys()
    for name in written:
        at = inputs["mask"] if name != "pooler" else slice(None)
        assert_parity(np.asarray(written[name])[at], single[name][at], exact[name][at], name)
    mine, theirs, best = paths(gradient), paths(ours(single_gradient, shapes)), paths(ours(exact_gradient, shapes))
    scales = module_scales(best)
    for path in best:
        assert_parity(mine[path], theirs[path], best[path], f"gradient of {path}", scales[path])


def test_a_drawn_configuration(rng, seed):
    check_parity(draw(rng), rng, seed)


@pytest.mark.full
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_every_activation(act, layers, rng, seed):
    check_parity(draw(rng, hidden_act=act, num_hidden_layers=layers), rng, seed)


@pytest.mark.full
@pytest.mark.parametrize("types", [1, 2, 3])
@pytest.mark.parametrize("heads", [1, 3, 4, 7])
def test_heads_and_token_types(heads, types, rng, seed):
    # A width of 3 leaves a layer norm one degree of freedom: every gradient through it is a difference of nearly equal
    # numbers, and 1e-5 is below what float32 can tell. One head has a width of 6, as small as the drawn ones have.
    raw = {"num_attention_heads": heads, "hidden_size": max(6, 3 * heads), "type_vocab_size": types}
    check_parity(draw(rng, **raw), rng, seed)


# -- config.json --------------------------------------------------------------------------------------------------


def test_the_config_reads_what_it_knows_and_leaves_the_rest():
    raw = RAW | {"hidden_act": "relu", "layer_norm_eps": 1e-5, "classifier_dropout": None, "model_type": "bert"}
    assert CONFIG(raw) == BertConfig(13, 6, 1, 3, 7, hidden_act="relu", layer_norm_eps=1e-5)


def test_the_defaults_are_transformers():
    from transformers import BertConfig as Config

    reference = Config(**RAW).to_dict()
    assert CONFIG(RAW) == CONFIG(reference)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": None, "hidden_size": "6"}, "must have the numbers vocab_size, hidden_size$"),
        ({"num_attention_heads": 4}, "hidden_size 6 is not divisible by num_attention_heads 4"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"is_decoder": True}, "a BERT decoder"),
        ({"add_cross_attention": True}, "a BERT decoder"),
        ({"hidden_act": "gelu_ne"}, "unknown activation 'gelu_ne'; did you mean 'gelu_new'"),
    ],
)
def test_configs_that_are_no_bert_of_ours(change, said):
    with pytest.raises(InputError, match=said):
        CONFIG(RAW | change)


# -- the chain ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
def test_stages_and_their_parameters(pooling):
    config = CONFIG(RAW | {"num_hidden_layers": 3})
    model = Model(stages(config, pooling))
    assert model.names == ("embeddings", "layers_0", "layers_1", "layers_2", "pooler")
    assert ("pooler" in model.shapes()["params"]) == (pooling == "pooler")


def test_the_name_map_knows_every_parameter_both_ways():
    reference = dict(reference_model(RAW, 0).named_parameters())
    known = paths(Model(stages(CONFIG(RAW), "pooler")).shapes())
    assert {NAMES.to_foreign(path)[0] for path in known} == reference.keys()
    for foreign in reference:
        assert NAMES.to_canonical(foreign)[0] in known
        assert NAMES.to_canonical(f"bert.{foreign}") == NAMES.to_canonical(foreign)
