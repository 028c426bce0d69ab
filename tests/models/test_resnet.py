"""Law 2 on ResNets, in evaluation and in training: each stage, the gradient and the statistics, as three references
compute them. And what is read of a config.json, or told from a file's tensors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import resnets
from tests.models.convolutional import COUNT, Reference, check_parity, tensors
from tests.models.resnets import KINDS, LABELS, of_torch, of_transformers, places
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.heads import classifier
from tl_jax.models.layers import ACTIVATIONS
from tl_jax.models.resnet import CONFIG, NAMES, infer, stages
from tl_jax.rules import paths

both_modes = pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])


def model_of(raw: dict[str, Any], *, head: bool = True) -> Model:
    model = Model(stages(CONFIG(raw)), inputs=("image",))
    return model.attach(classifier(LABELS, raw)) if head else model


def shapes_of(model: Model, raw: dict[str, Any]) -> Any:
    return model.shapes({"image": jax.ShapeDtypeStruct((1, 32, 32, raw["num_channels"]), jnp.float32)})


def check(net: Any, raw: dict[str, Any], rng: np.random.Generator, *, head: bool = True, train: bool) -> None:
    print(raw)
    model, names = model_of(raw, head=head), NAMES(CONFIG(raw))
    check_parity(Reference(net, places), model, names, lambda: resnets.image(raw, rng), rng, train=train)


def check_transformers(raw: dict[str, Any], kind: str, train: bool, rng: np.random.Generator, seed: int) -> None:
    check(of_transformers(kind, raw, seed), raw, rng, head=kind != "ResNetModel", train=train)


# -- law 2 ------------------------------------------------------------------------------------------------------------


@both_modes
def test_transformers(train, rng, seed):
    check_transformers(resnets.draw(rng), str(rng.choice(KINDS)), train, rng, seed)


@pytest.mark.full
@both_modes
@pytest.mark.parametrize("downsample_in_bottleneck", [False, True])
@pytest.mark.parametrize("downsample_in_first_stage", [False, True])
@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_every_form_of_transformers(layer_type, downsample_in_first_stage, downsample_in_bottleneck, train, rng, seed):
    form = {
        "downsample_in_first_stage": downsample_in_first_stage,
        "downsample_in_bottleneck": downsample_in_bottleneck,
    }
    for kind in KINDS:
        check_transformers(resnets.draw(rng, layer_type=layer_type, **form), kind, train, rng, seed)


@pytest.mark.full
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_every_activation(act, rng, seed):
    check_transformers(resnets.draw(rng, hidden_act=act), KINDS[1], False, rng, seed)


def of_torchvision(rng: np.random.Generator, layer_type: str) -> dict[str, Any]:
    return resnets.draw(rng, layer_type=layer_type, hidden_act="relu")


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_torchvision(layer_type, rng, seed):
    raw = of_torchvision(rng, layer_type)
    check(of_torch(raw, seed), raw, rng, train=bool(rng.integers(2)))


@both_modes
def test_cifar(train, rng, seed):
    raw = resnets.draw_cifar(rng)
    check(of_torch(raw, seed), raw, rng, train=train)


@pytest.mark.full
@both_modes
@pytest.mark.parametrize("shortcut", ["padding", "projection"])
@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_every_form_of_the_others(layer_type, shortcut, train, rng, seed):
    for v1 in (False, True):
        raw = of_torchvision(rng, layer_type) | {"downsample_in_bottleneck": v1}
        check(of_torch(raw, seed), raw, rng, train=train)
    raw = resnets.draw_cifar(rng, shortcut=shortcut)
    check(of_torch(raw, seed), raw, rng, train=train)


# -- the chain and its names ------------------------------------------------------------------------------------------


def test_stages_and_their_leaves():
    config = {"num_channels": 3, "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [2, 1], "layer_type": "basic"}
    model = model_of(config)
    assert model.names == ("stem", "blocks_0", "blocks_1", "blocks_2", "pooler", "head")
    assert not model.packs and model.live("stem") == ("image", "noise", "starts")
    leaves = set(paths(shapes_of(model, config)))
    norms = {"stem/norm", *(f"blocks_{i}/norm_{n}" for i in range(3) for n in (1, 2)), "blocks_2/shortcut/norm"}
    kernels = {"stem/conv", *(f"blocks_{i}/conv_{n}" for i in range(3) for n in (1, 2)), "blocks_2/shortcut/conv"}
    assert leaves == (
        {f"{kernel}/kernel" for kernel in kernels}
        | {f"{norm}/{leaf}" for norm in norms for leaf in ("scale", "bias")}
        | {f"batch_stats/{norm}/{leaf}" for norm in norms for leaf in ("mean", "var")}
        | {"head/kernel", "head/bias"}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_map_knows_every_tensor_of_transformers_both_ways(kind, rng):
    raw = resnets.draw(rng)
    names, found = NAMES(CONFIG(raw)), set(of_transformers(kind, raw, 0).state_dict())
    known = paths(shapes_of(model_of(raw, head=kind != "ResNetModel"), raw))
    front = "" if kind == "ResNetModel" else "resnet."
    written = {names.to_foreign(path, front, classifier=bool(front))[0] for path in known}
    assert written == {name for name in found if not names.is_ignored(name)}
    assert found - written == {name for name in found if name.endswith(COUNT)}
    for name in written:
        assert names.to_canonical(name)[0] in known


@pytest.mark.parametrize("draw", [lambda rng: of_torchvision(rng, "bottleneck"), resnets.draw_cifar])
def test_other_names_are_read_and_transformers_written(draw, rng):
    raw = draw(rng)
    names = NAMES(CONFIG(raw))
    for name in tensors(of_torch(raw, 0)):
        path, transform = names.to_canonical(name)
        assert names.to_canonical(names.to_foreign(path)[0]) == (path, transform)
        assert names.to_foreign(path)[0].partition(".")[0] in ("embedder", "encoder", "classifier")


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("layer2.1", "blocks_3"),
        ("layer2.1.conv2.weight", "blocks_3/conv_2/kernel"),
        ("layer2.0.downsample.1", "blocks_2/shortcut/norm"),
        ("resnet.encoder.stages.1.layers.1", "blocks_3"),
        ("layer1.0.bn1.running_var", "batch_stats/blocks_0/norm_1/var"),
        ("bn1.running_mean", "batch_stats/stem/norm/mean"),
        ("fc", "head"),
        ("linear", "head"),
        ("layer3.0", None),
        ("conv1", "stem/conv"),  # one in each block as well, where it does not come first
    ],
)
def test_alias_understands_the_names_of_all_three(text, ours):
    names = NAMES(CONFIG({"hidden_sizes": [4, 8], "depths": [2, 2], "layer_type": "basic"}))
    assert names.alias(text) == ours


def test_a_model_says_where_foreign_names_are(rng):
    raw = {"num_channels": 3, "hidden_sizes": [4, 8], "depths": [2, 2], "layer_type": "basic"}
    assert NAMES(CONFIG(raw)).to_canonical("layer1.2.conv1.weight") is None  # the level has two
    assert NAMES(CONFIG(raw)).to_canonical("layer1.0.conv3.weight") is None  # a basic block as well
    assert NAMES(CONFIG(raw)).to_foreign("blocks_4/conv_1/kernel") is None


# -- configs ----------------------------------------------------------------------------------------------------------


def test_the_defaults_are_transformers():
    import transformers

    assert CONFIG({}) == CONFIG(transformers.ResNetConfig().to_dict())
    assert CONFIG({}).hidden_size == 2048 and CONFIG({}).image_shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"depths": [1, 2]}, "4 hidden_sizes for 2 depths"),
        ({"depths": [1, 0, 1, 1]}, "numbers above 0 for num_channels"),
        ({"hidden_sizes": [], "depths": []}, "numbers above 0"),
        ({"embedding_size": 64.0}, "numbers above 0"),
        ({"layer_type": "basik"}, "unknown layer_type 'basik'; did you mean 'basic'"),
        ({"hidden_act": "rely"}, "unknown activation 'rely'"),
        ({"hidden_sizes": [3, 4], "depths": [1, 1]}, "a bottleneck of width 3 has no quarter"),
        ({"model_type": "resnet", "stem": "cifar"}, "a resnet has no choice"),
        ({"stem": "imgenet"}, "unknown stem 'imgenet'; did you mean 'imagenet'"),
        ({"shortcut": "padding", "hidden_sizes": [64, 32], "depths": [1, 1]}, r"cannot narrow .*: \[64, 64, 32\]"),
        ({"shortcut": "padding", "hidden_sizes": [32, 64], "depths": [1, 1]}, r"cannot narrow .*: \[64, 32, 64\]"),
    ],
)
def test_configs_that_are_no_resnet_of_ours(said, fault):
    with pytest.raises(InputError, match=fault):
        CONFIG(said)


def shapes_in(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in of_torch(raw, 0).state_dict().items()}


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_shapes_tell_the_config_of_torchvision(layer_type, rng):
    raw = of_torchvision(rng, layer_type) | {"downsample_in_bottleneck": False, "downsample_in_first_stage": False}
    raw["hidden_sizes"] = [4 * width for width in raw["hidden_sizes"]]
    assert infer(shapes_in(raw)) == raw | {"num_labels": LABELS}
    halved = raw | {"downsample_in_first_stage": True, "embedding_size": raw["hidden_sizes"][0]}
    assert infer(shapes_in(halved)) == halved | {"num_labels": LABELS}  # else there were no shortcut in layer1


@pytest.mark.parametrize("shortcut", ["padding", "projection"])
def test_shapes_tell_the_config_of_a_cifar_resnet(shortcut, rng):
    raw = resnets.draw_cifar(rng, shortcut=shortcut)
    assert infer(shapes_in(raw)) == raw | {"num_labels": LABELS}
    headless = {name: shape for name, shape in shapes_in(raw).items() if not name.startswith("linear")}
    assert infer(headless) == raw


def test_shapes_of_other_nets_tell_nothing(rng):
    shapes = shapes_in(of_torchvision(rng, "basic"))
    assert infer({}) is None and infer({"conv1.weight": (4, 3, 7, 7)}) is None
    assert infer({name: shape for name, shape in shapes.items() if name != "conv1.weight"}) is None
    assert infer({name: shape[:1] for name, shape in shapes.items()}) is None


@pytest.mark.parametrize(
    ("changed", "shape", "fault"),
    [
        ("layer1.0.conv1.weight", (9, 4, 1, 1), "wide ResNets are not supported: layer1 is 9 wide inside, where 2"),
        ("layer2.0.conv2.weight", (4, 2, 3, 3), "in groups .ResNeXt. are not supported: those of layer2"),
        ("conv1.weight", (4, 3, 5, 5), "begin with a convolution of 5 × 5 are not supported"),
    ],
)
def test_relatives_of_the_resnet_are_named(changed, shape, fault, rng):
    raw = of_torchvision(rng, "bottleneck") | {"num_channels": 3, "hidden_sizes": [8, 16], "depths": [1, 1]}
    shapes = shapes_in(raw | {"embedding_size": 4})
    with pytest.raises(InputError, match=fault):
        infer(shapes | {changed: shape})
