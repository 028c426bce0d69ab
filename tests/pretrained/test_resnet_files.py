"""ResNets in files: transformers' folders both ways, torchvision's and CIFAR checkpoints, which are files alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import resnets
from tests.models.convolutional import COUNT
from tests.models.resnets import LABELS
from tests.parity import PARITY, assert_same_bits, relative
from tests.pretrained.conftest import assert_same_tensors, outputs, pickle_weights, rewrite, tensors_of
from tests.tiny import ROOT
from tl_jax.errors import InputError
from tl_jax.models.heads import classifier
from tl_jax.pretrained import Source, check_unchanged, fingerprint, load, reads_images, save
from tl_jax.pretrained.weights import read, read_file
from tl_jax.rules import map_paths, paths

CLASSIFIER = "ResNetForImageClassification"
Folder = Callable[..., Path]


@pytest.fixture
def resnet(tmp_path: Path, rng: np.random.Generator, seed: int) -> Folder:
    """`resnet(kind, dtype="float32", shard=None, **config)` writes a folder as transformers does, and returns it."""
    import torch

    def make(kind: str = CLASSIFIER, *, dtype: str = "float32", shard: int | None = None, **config: Any) -> Path:
        model = resnets.of_transformers(kind, resnets.draw(rng, **config), seed)
        for name, buffer in model.named_buffers():
            if name.endswith(COUNT):
                buffer.fill_(int(rng.integers(1, 1000)))
        folder = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        model.to(getattr(torch, dtype)).save_pretrained(folder, **({} if shard is None else {"max_shard_size": shard}))
        return folder

    return make


@pytest.fixture
def checkpoint(tmp_path: Path, rng: np.random.Generator, seed: int) -> Callable[..., tuple[Any, Path]]:
    """`checkpoint(cifar=False, form="zip", …)`: a net in torch, and the one file that holds its tensors."""
    import torch

    def make(cifar: bool = False, form: str = "zip", without: str = " ", **config: Any) -> tuple[Any, Path]:
        plain = {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}
        raw = resnets.draw_cifar(rng, **config) if cifar else resnets.draw(rng, **plain | config)
        if raw["layer_type"] == "bottleneck":
            raw["hidden_sizes"] = [4 * width for width in raw["hidden_sizes"]]
        net = resnets.of_torch(raw, seed)
        state = {name: leaf for name, leaf in net.state_dict().items() if without not in name}
        path = tmp_path / {"zip": "net.pth", "legacy": "net.th", "safetensors": "net.safetensors"}[form]
        if form == "safetensors":
            from safetensors.torch import save_file

            save_file(state, path)
        elif form == "legacy":  # as DataParallel's are, with a figure beside
            held = {"state_dict": {f"module.{name}": leaf for name, leaf in state.items()}, "best_prec1": 91.5}
            torch.save(held, path, _use_new_zipfile_serialization=False)
        else:
            torch.save(state, path)
        return (net, raw), path

    return make


def images_for(config: Any, rng: np.random.Generator) -> np.ndarray:
    return resnets.image(config, rng)


def computed(net: Any, images: np.ndarray) -> np.ndarray:
    """The logits of a net of torch."""
    import torch

    with torch.no_grad():
        out = net.double()(torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2))
    return getattr(out, "logits", out).numpy()


def assert_transformers_computes_the_same(folder: Path, rng: np.random.Generator) -> Any:
    """Whatever class config.json names, with no tensor missing, left over or of another shape."""
    import transformers

    model, variables = load(folder)
    images = images_for(model.info.config, rng)
    cls = getattr(transformers, model.info.config["architectures"][0])
    reference, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    state = outputs(model, variables, {"image": images})
    if "head" in model.names:
        assert relative(state["logits"], computed(reference.eval(), images)) <= 2 * PARITY
    else:
        import torch

        with torch.no_grad():
            theirs = reference.eval()(torch.tensor(images).permute(0, 3, 1, 2)).pooler_output[:, :, 0, 0].numpy()
        assert relative(state["pooled"], theirs) <= 2 * PARITY
    return reference


# -- transformers' folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype", "shard"),
    [
        ("ResNetModel", "float32", None),
        ("ResNetModel", "bfloat16", 4000),
        (CLASSIFIER, "float16", None),
        (CLASSIFIER, "float32", 4000),
        ("ResNetBackbone", "float32", None),
    ],
)
def test_names_dtypes_and_bits_survive(resnet: Folder, tmp_path: Path, kind: str, dtype: str, shard: int | None):
    folder = resnet(kind, dtype=dtype, shard=shard)
    out = save(tmp_path / "out", *load(folder), max_shard_size=shard)
    assert_same_tensors(out, folder)
    config, again = (json.loads((place / "config.json").read_text()) for place in (folder, out))
    assert {k: v for k, v in again.items() if k not in ("id2label", "label2id")} == {
        k: v for k, v in config.items() if k not in ("id2label", "label2id")
    }


@pytest.mark.parametrize("kind", ["ResNetModel", CLASSIFIER])
def test_a_folder_is_read_whole_and_transformers_reads_ours(resnet: Folder, tmp_path: Path, kind: str, rng):
    folder = resnet(kind)
    model, variables = load(folder)
    assert set(model.info.names.values()) | set(model.info.carried) == set(read(folder))
    assert set(model.info.carried) == {name for name in read(folder) if name.endswith(COUNT)}
    assert set(variables) == {"params", "batch_stats"} and model.inputs == ("image",)
    assert (model.info.pooling, model.processor) == ("pooler", None)
    assert_transformers_computes_the_same(folder, rng)
    moved = map_paths(lambda _, leaf: leaf + np.float32(0.01), variables)
    out = save(tmp_path / "out", model, moved)
    assert_transformers_computes_the_same(out, rng)
    assert_same_bits(load(out)[1], moved)


def test_a_folder_of_pickles(resnet: Folder, tmp_path: Path) -> None:
    folder = resnet()
    _, variables = load(folder)
    pickle_weights(folder, shards=2)
    model, same = load(folder)
    assert_same_bits(same, variables)
    assert load(folder, dtype="float16")[1]["batch_stats"]["stem"]["norm"]["mean"].dtype == np.float16
    assert load(save(tmp_path / "out", model, same))[0] == model


def test_a_new_head_makes_a_classifier_with_our_labels_and_the_file_s_counts(resnet: Folder, tmp_path: Path, rng):
    folder = resnet("ResNetModel")
    model, variables = load(folder)
    labels = ("rose", "tulip", "daisy")
    model = replace(model.attach(classifier(3, model.info.config)), info=replace(model.info, labels=labels))
    filled = model.init(jax.random.key(0), only=("head",))
    variables = {**variables, "params": {**variables["params"], **filled["params"]}}
    out = save(tmp_path / "out", model, variables)
    reference = assert_transformers_computes_the_same(out, rng)
    assert type(reference).__name__ == CLASSIFIER and tuple(reference.config.id2label.values()) == labels
    counts = {name: tensor for name, tensor in tensors_of(folder).items() if name.endswith(COUNT)}
    assert counts and all(int(tensors_of(out)[f"resnet.{name}"]) == int(count) for name, count in counts.items())


def test_counts_that_a_folder_lacks_are_not_made_up(resnet: Folder, tmp_path: Path) -> None:
    folder = resnet("ResNetModel")
    rewrite(folder, lambda name: None if name.endswith(COUNT) else name)
    assert_same_tensors(save(tmp_path / "out", *load(folder)), folder)


def test_what_a_folder_cannot_hold_is_refused(resnet: Folder, tmp_path: Path) -> None:
    model, variables = load(resnet())
    for form, said in (("sentence-transformers", "is of texts"), ("onnx", "unknown format 'onnx'")):
        with pytest.raises(InputError, match=said):
            save(tmp_path / "out", model, variables, format=form)
    cut = model.attach(classifier(LABELS, {}), at="blocks_1")
    with pytest.raises(InputError, match=r"the chain is truncated: it lacks blocks_1, .*pooler"):
        save(tmp_path / "out", cut, variables)
    still = {**variables, "batch_stats": {**variables["batch_stats"], "stem": {}}}
    with pytest.raises(InputError, match=r"batch_stats/stem/norm/mean is missing, expected"):
        save(tmp_path / "out", model, still)
    with pytest.raises(InputError, match="images are pooled by auto, pooler, not 'mean'"):
        load(resnet(), pooling="mean")
    with pytest.raises(InputError, match="config= is for a file"):
        load(resnet(), config={"stem": "cifar"})


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_torchvision(checkpoint: Any, tmp_path: Path, layer_type: str, form: str, rng: np.random.Generator) -> None:
    """What it computes is the net's own, and what we make of it transformers'."""
    (net, raw), path = checkpoint(form=form, layer_type=layer_type)
    model, variables = load(path)
    assert (model.info.family, model.info.labels) == ("resnet", tuple(f"LABEL_{i}" for i in range(LABELS)))
    images = images_for(raw, rng)
    ours = outputs(model, variables, {"image": images})["logits"]
    assert relative(ours, computed(net, images)) <= 2 * PARITY
    out = save(tmp_path / "out", model, variables, labels=["a", "b", "c", "d", "e"], format="hf")
    reference = assert_transformers_computes_the_same(out, rng)
    assert reference.config.id2label[4] == "e"
    assert_same_bits(load(out)[1], variables)


def test_the_counts_of_a_file_are_kept_and_those_it_lacks_are_zero(checkpoint: Any, tmp_path: Path) -> None:
    import torch

    (net, _), path = checkpoint()
    net.bn1.num_batches_tracked.fill_(7)
    net.layer2[0].bn1.num_batches_tracked.fill_(9)
    torch.save(net.state_dict(), path)
    kept = tensors_of(save(tmp_path / "kept", *load(path)))
    assert int(kept[f"resnet.embedder.embedder.normalization{COUNT}"]) == 7
    assert int(kept[f"resnet.encoder.stages.1.layers.0.layer.0.normalization{COUNT}"]) == 9
    _, path = checkpoint(without=COUNT)
    made = tensors_of(save(tmp_path / "made", *load(path)))
    counts = [tensor for name, tensor in made.items() if name.endswith(COUNT)]
    assert len(counts) == sum(name.endswith("running_mean") for name in made) and not any(map(int, counts))


def test_a_config_says_what_tensors_do_not(checkpoint: Any, rng: np.random.Generator) -> None:
    (net, raw), path = checkpoint(layer_type="bottleneck", downsample_in_bottleneck=True)
    images = images_for(raw, rng)
    right, wrong = (load(path, config=config) for config in ({"downsample_in_bottleneck": True}, None))
    theirs = computed(net, images)
    assert relative(outputs(*right, {"image": images})["logits"], theirs) <= 2 * PARITY
    assert relative(outputs(*wrong, {"image": images})["logits"], theirs) > 1e-2
    labels = {str(i): f"kind {i}" for i in range(LABELS)}
    assert load(path, config={"id2label": labels})[0].info.labels == tuple(labels.values())


@pytest.mark.parametrize("form", ["legacy", "safetensors"])
@pytest.mark.parametrize("shortcut", ["padding", "projection"])
def test_a_cifar_resnet_keeps_its_names(checkpoint: Any, tmp_path: Path, shortcut: str, form: str, rng) -> None:
    (net, raw), path = checkpoint(cifar=True, form=form, shortcut=shortcut)
    model, variables = load(path)
    images = images_for(raw, rng)
    assert relative(outputs(model, variables, {"image": images})["logits"], computed(net, images)) <= 2 * PARITY
    with pytest.raises(InputError, match="transformers has no class that computes a cifar_resnet"):
        save(tmp_path / "out", model, variables, format="hf")
    out = save(tmp_path / "out", model, variables)
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["shortcut"], "architectures" in config) == ("cifar_resnet", shortcut, False)
    assert {name: a.tobytes() for name, a in read(out).items()} == {n: a.tobytes() for n, a in read_file(path).items()}
    again, same = load(out)
    assert again == model and again.info.labels == model.info.labels
    assert_same_bits(same, variables)


def test_a_file_without_a_last_layer_is_a_backbone(checkpoint: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    _, path = checkpoint(without="fc.")
    model, variables = load(path)
    assert model.names[-1] == "pooler" and model.info.labels is None
    out = save(tmp_path / "out", model, variables)
    assert type(assert_transformers_computes_the_same(out, rng)).__name__ == "ResNetModel"


def test_a_file_that_does_not_fit_is_told_tensor_by_tensor(checkpoint: Any) -> None:
    import torch

    (net, _), path = checkpoint()
    state = net.state_dict()
    del state["layer1.0.bn2.running_var"]
    state["bn1.weight"] = torch.zeros(99)
    state["layer1.7.conv1.bias"] = torch.zeros(3)
    torch.save(state, path)
    with pytest.raises(InputError) as caught:
        load(path)
    said = str(caught.value)
    assert str(path) in said and "-> batch_stats/blocks_0/norm_2/var" in said
    assert "bn1.weight [99] -> stem/norm/scale: expected" in said and "layer1.7.conv1.bias [3]" in said


def test_files_that_tell_nothing(tmp_path: Path, tiny_bert: Any) -> None:
    folder = tiny_bert()
    with pytest.raises(InputError, match=r"model.safetensors holds tensors alone.*give the folder they lie in"):
        load(folder / "model.safetensors")
    with pytest.raises(InputError, match=r"vocab.txt is a file: give the folder it lies in, or weights \(.safetensors"):
        load(folder / "vocab.txt")
    with pytest.raises(InputError, match=r"there is no file .*did you mean 'model\.safetensors'"):
        load(folder / "model.safetensor.bin")
    with pytest.raises(InputError, match="which has no revision 'v1'"):
        load(folder / "model.safetensors", revision="v1")
    with pytest.raises(InputError, match="models of type 'bret' are not supported"):
        load(folder / "model.safetensors", config={"model_type": "bret"})
    given = json.loads((folder / "config.json").read_text())
    model, variables = load(folder / "model.safetensors", config=given)  # which is told what it is
    assert model.processor is None and paths(variables).keys() == paths(load(folder)[1]).keys()


def test_a_file_is_known_by_its_own_sum(checkpoint: Any, tmp_path: Path) -> None:
    _, path = checkpoint()
    source = load(path)[0].info.source
    assert source == Source(str(path), tmp_path, file=path.name) and str(source) == str(path)
    recorded = fingerprint(source)
    assert list(recorded) == [path.name]
    (tmp_path / "config.json").write_text("{}")
    check_unchanged(source, recorded)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=f"{path.name} has changed"):
        check_unchanged(source, recorded)
    path.unlink()
    with pytest.raises(InputError, match="is gone"):
        fingerprint(source)


def test_bfloat16_computes(resnet: Folder, rng: np.random.Generator) -> None:
    """A cast model's feature maps are bfloat16, its logits float32 and near those of float32."""
    model, variables = load(resnet(hidden_act="relu"))
    images = images_for(model.info.config, rng)
    fine, coarse = (outputs(m, variables, {"image": images}) for m in (model, model.cast(jnp.bfloat16)))
    assert (coarse["hidden"].dtype, coarse["logits"].dtype) == (jnp.bfloat16, jnp.float32)
    assert relative(coarse["logits"], fine["logits"]) < 0.25


def test_a_file_alone_prepares_images_as_is_usual(checkpoint: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    """torchvision: Resize(256), CenterCrop(224), ToTensor, Normalize. CIFAR nets: 32 x 32, the same numbers."""
    from PIL import Image

    image = Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8))
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    cropped = np.asarray(image.resize((341, 256), Image.Resampling.BILINEAR))[16:240, 58:282]
    path = checkpoint(num_channels=3)[1]
    assert reads_images(str(path))
    model, variables = load(path)
    assert relative(model.processor([image])["image"][0], (cropped / 255 - mean) / std) < 1e-6
    small = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    cifar, _ = load(checkpoint(cifar=True, num_channels=3, form="safetensors")[1])
    assert relative(cifar.processor([image])["image"][0], (small / 255 - mean) / std) < 1e-6
    again = load(save(tmp_path / "out", model, variables))[0]
    assert again.processor.config == model.processor.config
    assert load(checkpoint(num_channels=1, form="legacy")[1])[0].processor is None  # grey: nothing is usual


def test_a_file_beside_it_prepares_images_as_other_weights_want_them(
    checkpoint: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    """As docs/formats.md says for torchvision's V2: Resize(232), CenterCrop(224)."""
    from PIL import Image

    said = re.findall(r"```json\n(\{.*?\})\n```", (ROOT / "docs" / "formats.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "preprocessor_config.json").write_text(said[0], encoding="utf-8")
    image = Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8))
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    cropped = np.asarray(image.resize((309, 232), Image.Resampling.BILINEAR))[4:228, 42:266]
    model, _ = load(checkpoint(num_channels=3)[1])
    assert relative(model.processor([image])["image"][0], (cropped / 255 - mean) / std) < 1e-6
