"""Folders of ViT and DeiT: read as transformers wrote them, written so that it computes the same, labels and all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from tests.models.test_vit import EVERY
from tests.parity import PARITY, assert_same_bits, relative
from tests.pretrained.conftest import assert_same_tensors, outputs, pickle_weights, rewrite, set_json, tensors_of
from tl_jax.cli.main import main
from tl_jax.errors import InputError
from tl_jax.models.heads import classifier
from tl_jax.pretrained import load, save
from tl_jax.rules import map_paths
from tl_jax.tasks import ImageClassification

CONFIG = {
    "hidden_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 29,
    "image_size": 12,
    "patch_size": 4,
}
LABELS = ("cat", "dog", "fox", "owl")
Maker = Callable[..., Path]
every = pytest.mark.parametrize(("model_type", "kind"), EVERY)


@pytest.fixture
def vit(tmp_path: Path, seed: int) -> Maker:
    """`vit("vit", "ForImageClassification", dtype=…, shard=…, **config)`: a folder that transformers wrote."""
    import torch
    import transformers

    from tl_jax.models.families import class_name

    def make(
        model_type: str = "vit", kind: str = "Model", dtype: str = "float32", shard: int | None = None, **config: Any
    ) -> Path:
        torch.manual_seed(seed)
        labelled = {} if kind == "Model" else {"id2label": dict(enumerate(LABELS))}
        model = getattr(transformers, class_name(model_type, kind))(
            transformers.AutoConfig.for_model(model_type, **{**CONFIG, **labelled, **config})
        )
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(0.3 * torch.randn_like(tensor))
        folder = tmp_path / f"{model_type}-{kind}-{len(list(tmp_path.iterdir()))}"
        model.to(getattr(torch, dtype)).save_pretrained(folder, **({} if shard is None else {"max_shard_size": shard}))
        transformers.ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder)
        return folder

    return make


def pictures(rng: np.random.Generator, count: int = 3) -> list[np.ndarray]:
    return [rng.integers(0, 256, (15, 20, 3), np.uint8) for _ in range(count)]


def reference(folder: Path, images: list[np.ndarray]) -> Any:
    """What transformers computes of a folder by the class that it names."""
    import torch
    import transformers

    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
    given = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(
        [Image.fromarray(image) for image in images], return_tensors="pt"
    )
    with torch.no_grad():
        return model(**given)


def check_same(folder: Path, images: list[np.ndarray], labels: tuple[str, ...] = LABELS) -> None:
    model, variables = load(folder, dtype="float32")
    theirs, ours = reference(folder, images), outputs(model, variables, model.processor(images))
    if "logits" in theirs:
        assert relative(ours["logits"], theirs.logits) <= PARITY and model.info.labels == labels
    else:
        assert relative(ours["hidden"], theirs.last_hidden_state) <= PARITY
        pooled = theirs.pooler_output if theirs.pooler_output is not None else theirs.last_hidden_state[:, 0]
        assert relative(ours["pooled"], pooled) <= PARITY


@every
def test_computes_what_transformers_computes(vit: Maker, model_type: str, kind: str, rng: np.random.Generator) -> None:
    check_same(vit(model_type, kind), pictures(rng))


@pytest.mark.parametrize(
    ("model_type", "kind", "dtype", "shard"),
    [
        *((model_type, kind, "float32", None) for model_type, kind in EVERY),
        ("vit", "ForImageClassification", "bfloat16", 4000),
        ("deit", "ForImageClassificationWithTeacher", "float16", 4000),
        ("vit", "ForMaskedImageModeling", "float32", None),
    ],
)
def test_names_dtypes_and_bits_survive(
    vit: Maker, tmp_path: Path, model_type: str, kind: str, dtype: str, shard: int | None
) -> None:
    folder = vit(model_type, kind, dtype, shard, **({"encoder_stride": 4} if "Masked" in kind else {}))
    out = save(tmp_path / "out", *load(folder), max_shard_size=shard)
    assert_same_tensors(out, folder)
    ours, theirs = (json.loads((place / "config.json").read_text()) for place in (out, folder))
    assert {k: v for k, v in ours.items() if k not in ("id2label", "label2id")} == {
        k: v for k, v in theirs.items() if k not in ("id2label", "label2id")
    }
    assert (out / "preprocessor_config.json").read_bytes() == (folder / "preprocessor_config.json").read_bytes()


V4 = (
    (".attention.q_proj", ".attention.attention.query"),
    (".attention.k_proj", ".attention.attention.key"),
    (".attention.v_proj", ".attention.attention.value"),
    (".attention.o_proj", ".attention.output.dense"),
    (".mlp.fc1", ".intermediate.dense"),
    (".mlp.fc2", ".output.dense"),
)


def v4(name: str) -> str:
    """A name of transformers v5 as v4 had it."""
    for now, then in V4:
        name = name.replace(now, then)
    return name if "encoder." in name else name.replace("layers.", "encoder.layer.")


def v5(name: str) -> str:
    for now, then in V4:
        name = name.replace(then, now)
    return name.replace("encoder.layer.", "layers.")


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("rename", [v4, v5, lambda name: f"vit.{name}"], ids=["v4", "v5", "prefix"])
def test_every_generation_of_names_is_the_same_model(
    vit: Maker, tmp_path: Path, rename: Callable[[str], str], pickled: bool
) -> None:
    folder = vit()
    _, expected = load(folder)
    if pickled:
        pickle_weights(folder, rename=rename)
    else:
        rewrite(folder, rename)
    model, variables = load(folder)
    assert_same_bits(variables, expected)
    if not pickled:
        assert_same_tensors(save(tmp_path / "out", model, variables), folder)


def with_head(model: Any, variables: Any, labels: tuple[str, ...] = LABELS) -> tuple[Any, Any]:
    kept = model.attach(at="head") if "head" in model.names else model
    model = kept.attach(classifier(len(labels), model.info.config))
    rng = np.random.default_rng(3)
    head = {"kernel": rng.normal(size=(18, len(labels))), "bias": rng.normal(size=len(labels))}
    head = {name: leaf.astype(np.float32) for name, leaf in head.items()}
    return replace(model, info=replace(model.info, labels=labels)), {"params": {**variables["params"], "head": head}}


@every
def test_transformers_pipeline_gives_our_labels(
    vit: Maker, tmp_path: Path, model_type: str, kind: str, rng: np.random.Generator
) -> None:
    import transformers

    names = ("rose", "tulip", "daisy")
    model, variables = with_head(*load(vit(model_type, kind), pooling="classifier"), names)
    out = save(tmp_path / "out", model, variables)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"][0].endswith("ForImageClassification")
    images = pictures(rng)
    pipeline = transformers.pipeline("image-classification", str(out), device="cpu")
    answers = pipeline([Image.fromarray(image) for image in images], top_k=3)
    ours = jax.nn.softmax(outputs(model, variables, model.processor(images))["logits"])
    for answer, row in zip(answers, ours, strict=True):
        assert answer[0]["label"] == names[int(row.argmax())]
    again, same = load(out)
    assert again.info.labels == names
    assert_same_bits(same, variables)


def test_a_checkpoint_may_name_two_outputs_alike(vit: Maker, tmp_path: Path, rng: np.random.Generator) -> None:
    """As the 1000 of ImageNet do, of which two are a crane."""
    labels = ("cat", "crane", "dog", "crane")
    folder = vit(kind="ForImageClassification", id2label=dict(enumerate(labels)))
    config = json.loads((folder / "config.json").read_text())
    model, variables = load(folder)
    assert model.info.labels == labels
    assert main(["convert", str(folder), str(tmp_path / "converted")]) == 0
    for out in (tmp_path / "converted", save(tmp_path / "saved", model, variables)):
        written = json.loads((out / "config.json").read_text())
        assert written["id2label"] == config["id2label"] == {str(i): label for i, label in enumerate(labels)}
        assert written["label2id"] == {"cat": 0, "crane": 3, "dog": 2}
        assert_same_tensors(out, folder)
        assert load(out)[0].info.labels == labels
        check_same(out, pictures(rng), labels)
    with pytest.raises(InputError, match="the head has 4 outputs, which need as many different labels"):
        save(tmp_path / "no", model, variables, labels=labels)


def test_labels_of_data_replace_those_of_which_two_are_alike(vit: Maker, tmp_path: Path) -> None:
    model, variables = load(vit(kind="ForImageClassification", id2label=dict(enumerate(("cat", "crane", "crane")))))
    task = ImageClassification(labels=("cat", "crane", "dog"))
    attached, kept = task.attach(model), task.without_old_head(model, variables)
    assert "head" in attached.names and "head" not in kept["params"]
    kept["params"]["head"] = map_paths(lambda _, leaf: leaf + 1, variables["params"]["head"])
    written = json.loads((save(tmp_path / "out", attached, kept) / "config.json").read_text())
    assert written["id2label"] == {"0": "cat", "1": "crane", "2": "dog"}


def test_what_is_pooled(vit: Maker, rng: np.random.Generator) -> None:
    folder, images = vit(), pictures(rng)
    found = {}
    for pooling in ("auto", "classifier", "cls", "mean", "pooler"):
        model, variables = load(folder, pooling=pooling)
        found[pooling] = outputs(model, variables, model.processor(images))
        assert model.info.pooling == {"auto": "pooler", "classifier": "cls"}.get(pooling, pooling)
    hidden = np.asarray(found["cls"]["hidden"])
    assert relative(found["mean"]["pooled"], hidden[:, 1:].mean(1)) <= PARITY
    assert relative(found["cls"]["pooled"], hidden[:, 0]) <= PARITY
    assert_same_bits({"a": found["auto"]["pooled"]}, {"a": found["pooler"]["pooled"]})
    with pytest.raises(InputError, match="images are pooled by auto, cls, mean, pooler, not 'last'"):
        load(folder, pooling="last")


def test_a_head_over_another_pooling_has_no_class(vit: Maker, tmp_path: Path) -> None:
    pair = with_head(*load(vit(), pooling="mean"))
    with pytest.raises(InputError, match="over mean pooling: fine-tune with --pooling cls"):
        save(tmp_path / "out", *pair)
    pair = with_head(*load(vit(), pooling="cls"))
    with pytest.raises(InputError, match="a sentence-transformers folder is of texts"):
        save(tmp_path / "out", *pair, format="sentence-transformers")


def test_a_head_of_another_pooling_is_left_out_and_carried(vit: Maker, tmp_path: Path) -> None:
    for model_type, kind in EVERY[1:]:
        if kind != "Model":
            folder = vit(model_type, kind)
            model, variables = load(folder, pooling="mean")
            assert "head" not in model.names and model.info.labels is None
            assert_same_tensors(save(tmp_path / f"out-{kind}-{model_type}", model, variables), folder)


@pytest.mark.parametrize("model_type", ["vit", "deit"])
def test_another_size_of_image(vit: Maker, tmp_path: Path, model_type: str, rng: np.random.Generator) -> None:
    import torch
    import transformers

    folder, images = vit(model_type, "ForImageClassification"), pictures(rng)
    model, variables = load(folder, image_size=20)
    given = model.processor(images)
    assert given["image"].shape == (3, 20, 20, 3)
    ours = outputs(model, variables, given)["logits"]
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = torch.tensor(given["image"].transpose(0, 3, 1, 2))
    with torch.no_grad():
        assert relative(ours, theirs(pixels, interpolate_pos_encoding=True).logits) <= PARITY
    out = save(tmp_path / "out", model, variables)
    assert json.loads((out / "config.json").read_text())["image_size"] == 20
    check_same(out, images)
    again, _ = load(out)
    assert again == model and again.processor.shape == (20, 20, 3)


def test_images_and_texts_are_told_apart(vit: Maker, tmp_path: Path) -> None:
    from tests.tiny import write_bert
    from tl_jax.pretrained import reads_images

    bert = write_bert(tmp_path / "bert")
    assert reads_images(str(vit())) and not reads_images(str(bert)) and not reads_images(str(tmp_path / "none"))
    with pytest.raises(InputError, match="a bert reads texts, which have no image size"):
        load(bert, image_size=20)


def test_a_config_of_another_shape_is_told_tensor_by_tensor(vit: Maker) -> None:
    folder = vit()
    set_json(folder / "config.json", image_size=16)
    with pytest.raises(InputError, match=r"embeddings.position_embeddings \[1, 10, 18\] -> .*expected \[1, 17, 18\]"):
        load(folder)


def test_the_tensors_lie_as_ours_do(vit: Maker) -> None:
    folder = vit()
    tensors, (_, variables) = tensors_of(folder), load(folder)
    embeddings = variables["params"]["embeddings"]
    assert embeddings["position"]["embedding"].shape == (10, 18) and embeddings["class_token"].shape == (1, 18)
    name = next(name for name in tensors if name.endswith("patch_embeddings.projection.weight"))
    np.testing.assert_array_equal(embeddings["patch"]["kernel"], tensors[name].numpy().transpose(2, 3, 1, 0))
