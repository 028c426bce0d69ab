"""Law 2 on ViT and DeiT: each stage, each head and the gradient as transformers computes them; what a config says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import PARITY, assert_parity, assert_same_bits, module_scales, relative
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.families import class_name, family
from tl_jax.models.heads import classifier
from tl_jax.models.layers import ACTIVATIONS
from tl_jax.models.vit import CONFIG, VitConfig, at_size
from tl_jax.rules import map_paths, paths

LABELS, ROWS = 5, 3
KINDS = {
    "vit": ("Model", "ForImageClassification"),
    "deit": ("Model", "ForImageClassification", "ForImageClassificationWithTeacher"),
}
EVERY = [(model_type, kind) for model_type, kinds in KINDS.items() for kind in kinds]
every = pytest.mark.parametrize(("model_type", "kind"), EVERY)
RAW = {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 7}
OURS = {
    "copy": lambda a: a,
    "transpose": lambda a: a.T,
    "conv": lambda a: a.transpose(2, 3, 1, 0),
    "row": lambda a: a.squeeze(0),
}


def draw(rng: np.random.Generator, **given: Any) -> dict[str, Any]:
    """An odd configuration: images and patches that are no squares, patches that do not fill the image."""
    heads = int(rng.choice([3, 5]))
    patch = [int(side) for side in rng.integers(2, 5, 2)]
    return {
        "hidden_size": heads * int(rng.integers(2, 5)),
        "num_hidden_layers": int(rng.choice([1, 3])),
        "num_attention_heads": heads,
        "intermediate_size": 2 * int(rng.integers(3, 12)) + 1,
        "hidden_act": str(rng.choice(sorted(ACTIVATIONS))),
        "pooler_act": str(rng.choice(["tanh", "relu"])),
        "pooler_output_size": int(rng.integers(3, 9)),
        "layer_norm_eps": float(rng.choice([1e-5, 1e-12])),
        "image_size": [side * int(rng.integers(1, 4)) + int(rng.integers(0, side)) for side in patch],
        "patch_size": patch,
        "num_channels": int(rng.integers(1, 5)),
        "qkv_bias": bool(rng.integers(2)),
        **given,
    }


def reference_model(model_type: str, kind: str, raw: dict[str, Any], seed: int):
    """The model of transformers with no parameter near zero or one."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(model_type, num_labels=LABELS, **raw)
    config._attn_implementation = "eager"
    model = getattr(transformers, class_name(model_type, kind))(config).eval()
    generator = torch.Generator().manual_seed(seed % 2**31)
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.normal_(0, 0.3, generator=generator)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.add_(1)
    return model


def reference_run(model, image, weights) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What each stage writes, and by its foreign name the gradient of `loss` for every parameter."""
    import torch

    dtype = next(model.parameters()).dtype
    found = {}
    norm = getattr(model, model.base_model_prefix, model).layernorm
    hook = norm.register_forward_hook(lambda _, __, out: found.update(norm=out))
    out = model(torch.tensor(image.transpose(0, 3, 1, 2), dtype=dtype), output_hidden_states=True)
    hook.remove()
    last = out.logits if "logits" in out else out.pooler_output
    hidden, end = (torch.tensor(w, dtype=dtype) for w in weights)
    model.zero_grad()
    ((found["norm"] * hidden).sum() + (last * end).sum()).backward()
    gradient = {name: leaf.grad.numpy() for name, leaf in model.named_parameters()}
    names = ["embeddings", *(f"layers_{i}" for i in range(len(out.hidden_states) - 1))]
    written = dict(zip(names, out.hidden_states, strict=True)) | found | {"end": last}
    return {name: value.detach().numpy() for name, value in written.items()}, gradient


def model_of(model_type: str, kind: str, raw: dict[str, Any]) -> Model:
    """Our chain for a class of transformers."""
    architecture = family(model_type)
    pooling = "pooler" if kind == "Model" else "cls"
    model = Model(architecture.stages(architecture.CONFIG(raw), pooling), inputs=("image",))
    head = getattr(architecture, "HEADS", {}).get(kind, classifier)
    return model if kind == "Model" else model.attach(head(LABELS, {**raw, "model_type": model_type}))


def ours(model_type: str, tensors: dict[str, np.ndarray], shapes: Any) -> Any:
    """Foreign tensors in our tree, through the family's name map: every one of them has a place."""
    by_path = {}
    for name, value in tensors.items():
        path, transform = family(model_type).NAMES.to_canonical(name)
        by_path[path] = OURS[transform](value)
    assert len(by_path) == len(tensors) and {p: v.shape for p, v in by_path.items()} == {
        p: leaf.shape for p, leaf in paths(shapes).items()
    }
    return map_paths(lambda path, _: by_path[path], shapes)


def check_parity(model_type: str, kind: str, raw: dict[str, Any], rng: np.random.Generator, seed: int) -> None:
    print(kind, raw)
    reference, model = reference_model(model_type, kind, raw, seed), model_of(model_type, kind, raw)
    config = family(model_type).CONFIG(raw)
    image = rng.normal(size=(ROWS, *config.image_shape)).astype(np.float32)
    shapes = model.shapes({"image": image})["params"]
    params = ours(model_type, {name: leaf.detach().numpy() for name, leaf in reference.named_parameters()}, shapes)
    length, width = params["embeddings"]["position"]["embedding"].shape
    ends = config.pooler_output_size if kind == "Model" else LABELS
    weights = rng.normal(size=(ROWS, length, width)), rng.normal(size=(ROWS, ends))

    def loss(params):
        state, written = {"image": image}, {}
        for name, after in zip(model.names, (*model.names[1:], None), strict=True):
            state = model.apply({"params": params}, state, start=name, stop=after)  # from the live part: every cut
            written[name] = state["hidden"]
        written = {name: value for name, value in written.items() if name not in ("pooler", "head")}
        written["end"] = state["logits" if kind != "Model" else "pooled"]
        hidden, end = (jnp.asarray(w, jnp.float32) for w in weights)
        return (state["hidden"] * hidden).sum() + (written["end"] * end).sum(), written

    with jax.default_matmul_precision("highest"):
        gradient, written = jax.jit(jax.grad(loss, has_aux=True))(params)
    single, single_gradient = reference_run(reference, image, weights)
    exact, exact_gradient = reference_run(reference.double(), image, weights)

    assert written.keys() == single.keys()
    for name in written:
        assert_parity(np.asarray(written[name]), single[name], exact[name], name)
    mine, theirs, best = (
        paths(tree)
        for tree in (gradient, ours(model_type, single_gradient, shapes), ours(model_type, exact_gradient, shapes))
    )
    scales = module_scales(best)
    for path in best:
        assert_parity(mine[path], theirs[path], best[path], f"gradient of {path}", scales[path])


def test_a_drawn_configuration(rng, seed):
    check_parity(*EVERY[rng.integers(len(EVERY))], draw(rng), rng, seed)


@pytest.mark.full
@every
@pytest.mark.parametrize("time", range(3))
def test_many_configurations(model_type, kind, time, rng, seed):
    check_parity(model_type, kind, draw(rng), rng, seed)


@pytest.mark.full
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_every_activation(act, rng, seed):
    check_parity(*EVERY[rng.integers(len(EVERY))], draw(rng, hidden_act=act), rng, seed)


def test_training_without_dropout_is_evaluation(rng, seed):
    model = model_of("vit", "ForImageClassification", draw(rng))
    image = {"image": rng.normal(size=(ROWS, *model.stages[0].module.size)).astype(np.float32)}
    variables = model.init(jax.random.key(seed), image)
    training = model.apply(variables, image, train_from="embeddings", key=jax.random.key(1))
    assert_same_bits({"logits": training["logits"]}, {"logits": model.apply(variables, image)["logits"]})


def test_dropout_is_another_at_every_position_and_the_same_in_every_batch(rng, seed):
    config = CONFIG(draw(rng, num_hidden_layers=1, hidden_dropout_prob=0.5))
    model = Model(family("vit").stages(config, "mean")[:1], inputs=("image",))
    inputs = {
        "image": rng.normal(size=(4, *config.image_shape)).astype(np.float32),
        "noise": rng.integers(0, 2**32, (4, 1), np.uint32),
    }
    variables = model.init(jax.random.key(seed), inputs)

    def dropped(order):
        some = {name: value[order] for name, value in inputs.items()}
        state = model.apply(variables, some, train_from="embeddings", key=jax.random.key(2))
        return np.asarray(state["hidden"]) == 0

    whole = dropped(np.arange(4))
    np.testing.assert_array_equal(dropped(np.array([2, 0])), whole[[2, 0]])
    assert len(np.unique(whole.reshape(-1, whole.shape[-1]), axis=0)) > whole.shape[1] // 2
    assert 0.2 < whole.mean() < 0.8


# -- another size of image ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", KINDS)
def test_positions_are_interpolated_as_transformers_does(model_type, rng, seed):
    import torch

    patch, size = int(rng.integers(2, 4)), [int(side) for side in rng.integers(5, 20, 2)]
    raw = draw(rng, image_size=patch * int(rng.integers(2, 6)), patch_size=patch, num_hidden_layers=1)
    reference = reference_model(model_type, "Model", raw, seed)
    architecture, model = family(model_type), model_of(model_type, "Model", raw)
    shapes = model.shapes({"image": np.zeros((1, *architecture.CONFIG(raw).image_shape), np.float32)})["params"]
    params = ours(model_type, {name: leaf.detach().numpy() for name, leaf in reference.named_parameters()}, shapes)
    params = architecture.at_size(params, architecture.CONFIG(raw), tuple(size))
    image = rng.normal(size=(ROWS, *size, raw["num_channels"])).astype(np.float32)
    model = model_of(model_type, "Model", raw | {"image_size": size})
    found = model.apply({"params": params}, {"image": image}, stop="layers_0")["hidden"]
    with torch.no_grad():
        given = torch.tensor(image.transpose(0, 3, 1, 2))
        expected = reference.embeddings(given, interpolate_pos_encoding=True).numpy()
    assert relative(found, expected) <= PARITY


def test_a_size_without_room_for_a_patch(rng):
    config = CONFIG(RAW | {"patch_size": 4, "image_size": 8})
    with pytest.raises(InputError, match="the image size 3 has no room for a patch of 4"):
        at_size({}, config, 3)


def test_images_of_another_size_are_refused(rng):
    model = model_of("vit", "ForImageClassification", RAW | {"image_size": 8, "patch_size": 4})
    with pytest.raises(InputError, match=r"takes images of 8 × 8 × 3, not 8 × 6 × 3.*image_size="):
        model.shapes({"image": np.zeros((1, 8, 6, 3), np.float32)})


# -- names and configs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", KINDS)
def test_stages_and_their_parameters(model_type, rng):
    config = family(model_type).CONFIG(draw(rng, num_hidden_layers=2))
    for pooling in ("cls", "mean", "pooler"):
        model = Model(family(model_type).stages(config, pooling), inputs=("image",))
        assert model.names == ("embeddings", "layers_0", "layers_1", "norm", "pooler") and not model.packs
        params = model.shapes({"image": np.zeros((1, *config.image_shape), np.float32)})["params"]
        assert ("pooler" in params) == (pooling == "pooler")
        assert {path.partition("/")[2] for path in paths(params) if path.startswith("layers_0/")} >= {
            *(f"attention/{name}/kernel" for name in ("query", "key", "value", "out")),
            *(f"{name}/scale" for name in ("attention_norm", "mlp_norm")),
            *(f"mlp/{name}/bias" for name in ("up", "down")),
        }
        assert {"class_token", "position/embedding", "patch/kernel"} <= {*paths(params["embeddings"])}
    with pytest.raises(InputError, match="pooled by cls, mean, pooler, not 'last'"):
        family(model_type).stages(config, "last")


@every
def test_the_name_map_knows_every_parameter_of_files_and_of_memory(model_type, kind, rng, tmp_path):
    from safetensors import safe_open

    raw, names = draw(rng), family(model_type).NAMES
    reference = reference_model(model_type, kind, raw, 0)
    reference.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        written = set(file.keys())
    image = np.zeros((1, *family(model_type).CONFIG(raw).image_shape), np.float32)
    known = paths(model_of(model_type, kind, raw).shapes({"image": image})["params"])
    for found in (written, dict(reference.named_parameters())):
        assert {names.to_canonical(name)[0] for name in found} == known.keys()
    if not kind.endswith("WithTeacher"):  # whose head has the name of a plain one, until it is read
        front = "" if kind == "Model" else names.prefixes[0]
        old = {names.to_foreign(path, front)[0] for path in known}
        assert {names.to_canonical(name)[0] for name in old} == known.keys()
        assert all(name.replace("layers.", "encoder.layer.") in old for name in written if "layernorm" in name)


def test_the_config_reads_what_it_knows_and_leaves_the_rest():
    raw = RAW | {"hidden_act": "relu", "image_size": [8, 4], "patch_size": 4, "encoder_stride": 16, "pooler_act": None}
    assert CONFIG(raw) == VitConfig(6, 1, 3, 7, hidden_act="relu", image_size=(8, 4), patch_size=4)
    assert CONFIG(raw).grid == (2, 1)


def test_the_defaults_are_transformers():
    import transformers

    for model_type, kind in (("vit", transformers.ViTConfig), ("deit", transformers.DeiTConfig)):
        ours = CONFIG(RAW | {"pooler_output_size": 6})
        assert family(model_type).CONFIG(kind(**RAW).to_dict()) == ours


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "of a ViT must have the numbers hidden_size$"),
        ({"num_attention_heads": 4}, "hidden_size 6 is not divisible by num_attention_heads 4"),
        ({"hidden_act": "gelu_ne"}, "unknown activation 'gelu_ne'; did you mean 'gelu_new'"),
        ({"image_size": "224"}, r"image_size must be a number of pixels or \[height, width\], not '224'"),
        ({"image_size": [1, 2, 3]}, r"image_size must be"),
        ({"image_size": 8, "patch_size": 16}, "patches of 16 do not fit into images of 8"),
        ({"head_dim": 5}, "head_dim 5"),
    ],
)
def test_configs_that_are_no_vit_of_ours(change, said):
    with pytest.raises(InputError, match=said):
        CONFIG(RAW | change)


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("vit.encoder.layer.3", "layers_3"),
        ("layers.3.attention.q_proj", "layers_3/attention/query"),
        ("layernorm_before", "layers_i/attention_norm"),
        ("mlp.fc1", "layers_i/mlp/up"),
        ("classifier", "head"),
    ],
)
def test_alias_understands_its_words(text, ours):
    assert family("vit").NAMES.alias(text) == ours
