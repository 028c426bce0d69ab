"""Law 3: names, dtypes and bits survive `save(load(x))`; transformers computes the same from what we write."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import PARITY, assert_same_bits, relative
from tests.pretrained.conftest import (
    Maker,
    assert_same_tensors,
    outputs,
    pickle_weights,
    rewrite,
    set_json,
    tensors_of,
    texts,
)
from tests.pretrained.test_loading import assert_computes_the_same
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.models.heads import classifier
from tl_jax.pretrained import load, save
from tl_jax.rules import map_paths


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def with_head(model: Model, variables: dict[str, Any], labels: tuple[str, ...]) -> tuple[Model, dict[str, Any]]:
    """The model with a random head on top, as a task attaches one."""
    model = model.attach(classifier(len(labels), model.info.config))
    rng = np.random.default_rng(3)
    head = {"kernel": rng.normal(size=(18, len(labels))), "bias": rng.normal(size=len(labels))}
    head = {name: leaf.astype(np.float32) for name, leaf in head.items()}
    return replace(model, info=replace(model.info, labels=labels)), {"params": {**variables["params"], "head": head}}


def perturbed(variables: dict[str, Any]) -> dict[str, Any]:
    """As if trained a step."""
    return map_paths(lambda _, leaf: leaf + np.asarray(0.01, leaf.dtype), variables)


# -- law 3 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype", "shard"),
    [
        ("BertModel", "float32", None),
        ("BertModel", "bfloat16", 3000),
        ("BertForSequenceClassification", "float16", None),
        ("BertForSequenceClassification", "float32", 3000),
        ("BertForMaskedLM", "bfloat16", None),
        ("BertForPreTraining", "float32", None),
        ("BertForTokenClassification", "float32", None),
        ("RobertaModel", "bfloat16", None),
        ("RobertaForSequenceClassification", "float32", 3000),
        ("RobertaForMaskedLM", "float32", None),
        ("RobertaForTokenClassification", "float32", None),
        ("XLMRobertaForSequenceClassification", "float16", None),
        ("CamembertForMultipleChoice", "float32", None),
        ("DistilBertModel", "bfloat16", None),
        ("DistilBertForSequenceClassification", "float32", 3000),
        ("DistilBertForMaskedLM", "float32", None),
        ("DistilBertForQuestionAnswering", "float32", None),
    ],
)
def test_names_dtypes_and_bits_survive(
    tiny_bert: Maker, tmp_path: Path, kind: str, dtype: str, shard: int | None
) -> None:
    folder = tiny_bert(kind, dtype=dtype, shard=shard)
    out = save(tmp_path / "out", *load(folder), max_shard_size=shard)
    assert_same_tensors(out, folder)
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shard is not None)
    labels = {"id2label", "label2id"} if kind.endswith("ForSequenceClassification") else set()  # defaults, now said
    assert {k: v for k, v in config_of(out).items() if k not in labels} == config_of(folder)
    for name in ("vocab.txt", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_old_spellings_and_buffers_survive(tiny_bert: Maker, tmp_path: Path) -> None:
    folder = tiny_bert("BertForMaskedLM")
    rewrite(
        folder,
        lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        **{"bert.embeddings.position_ids": np.arange(23)[None]},
    )
    assert_same_tensors(save(tmp_path / "out", *load(folder)), folder)


def test_a_model_loads_as_it_was_saved(tiny_bert: Maker, tmp_path: Path) -> None:
    model, variables = load(tiny_bert("BertForSequenceClassification", num_labels=3))
    again, same = load(save(tmp_path / "out", model, perturbed(variables)))
    assert again == model and again.info.labels == model.info.labels
    assert_same_bits(same, perturbed(variables))


# -- classifiers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "BertModel",
        "BertForPreTraining",
        "BertForSequenceClassification",
        "RobertaModel",
        "RobertaForSequenceClassification",
        "XLMRobertaModel",
        "CamembertModel",
        "DistilBertForSequenceClassification",
    ],
)
def test_a_classifier_over_the_pooler_is_a_class_of_transformers(
    tiny_bert: Maker, tmp_path: Path, rng: np.random.Generator, kind: str
) -> None:
    folder, written = tiny_bert(kind), re.sub("Model|For.*", "", kind) + "ForSequenceClassification"
    if kind == "BertModel":
        rewrite(folder, lambda n: n, **{"embeddings.position_ids": np.arange(23)[None]})
    labels = ("billing", "delivery", 'ünïcode, with "quotes"')
    model, variables = load(folder)
    if "head" in model.names:
        model = replace(model, stages=model.stages[:-1])
    model, variables = with_head(model, variables, labels)
    out = save(tmp_path / "out", model, variables)
    config = config_of(out)
    assert config["architectures"] == [written]
    assert config["id2label"] == {str(i): label for i, label in enumerate(labels)}
    assert config["label2id"] == {label: i for i, label in enumerate(labels)}
    expected = set(tensors_of(tiny_bert(written)))
    assert set(tensors_of(out)) == expected | ({"bert.embeddings.position_ids"} if kind == "BertModel" else set())
    assert_computes_the_same(out, written, rng)
    again, same = load(out)
    assert again.info.labels == labels
    assert_same_bits(same, variables)


@pytest.mark.parametrize("kind", ["BertModel", "RobertaModel", "DistilBertForSequenceClassification"])
def test_transformers_pipeline_says_our_labels(
    tiny_bert: Maker, tmp_path: Path, rng: np.random.Generator, kind: str
) -> None:
    import transformers

    model, variables = load(tiny_bert(kind))
    if "head" in model.names:
        model = replace(model, stages=model.stages[:-1])
    model, variables = with_head(model, variables, ("no", "yes", "perhaps"))
    out = save(tmp_path / "out", model, variables)
    asked = list(texts(rng, 6))
    pipe = transformers.pipeline("text-classification", model=str(out), top_k=None)
    logits = outputs(model, variables, model.info.processor(asked))["logits"]
    for row, said in zip(np.asarray(jax.nn.softmax(logits)), pipe(asked), strict=True):
        by_label = {answer["label"]: answer["score"] for answer in said}
        assert relative([by_label[name] for name in ("no", "yes", "perhaps")], row) <= PARITY


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [
        ("BertModel", "mean"),
        ("BertModel", "cls"),
        ("BertModel", "last"),
        ("BertForMaskedLM", "mean"),
        ("RobertaForMaskedLM", "mean"),
        ("RobertaForSequenceClassification", "cls"),
        ("DistilBertModel", "mean"),
        ("DistilBertForSequenceClassification", "last"),
    ],
)
def test_other_classifiers_are_sentence_transformers_folders(
    tiny_bert: Maker, tmp_path: Path, rng: np.random.Generator, kind: str, pooling: str
) -> None:
    import torch

    model, variables = with_head(*load(tiny_bert(kind), pooling=pooling), ("a", "b", "c"))
    out = save(tmp_path / "out", model, variables)
    modules = json.loads((out / "modules.json").read_text())
    assert [(m["type"].rpartition(".")[2], m["path"]) for m in modules] == [
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        ("Dense", "2_Dense"),
    ]
    assert config_of(out / "1_Pooling")["word_embedding_dimension"] == 18
    assert config_of(out / "2_Dense") == {
        "in_features": 18,
        "out_features": 3,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    assert json.loads((out / "sentence_bert_config.json").read_text()) == {"max_seq_length": 23, "do_lower_case": False}

    # what sentence-transformers does with these files, in torch
    import transformers
    from safetensors.torch import load_file

    backbone = transformers.AutoModel.from_pretrained(out, attn_implementation="eager").eval()
    batch = model.info.processor(list(texts(rng, 5)))
    mask = torch.as_tensor(batch["mask"])
    with torch.no_grad():
        hidden = backbone(torch.as_tensor(batch["tokens"]).long(), attention_mask=mask.long()).last_hidden_state
        flags = {k for k, on in config_of(out / "1_Pooling").items() if k.startswith("pooling_mode") and on}
        if flags == {"pooling_mode_mean_tokens"}:
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            assert flags == {"pooling_mode_cls_token" if pooling == "cls" else "pooling_mode_lasttoken"}
            at = mask.sum(1) - 1 if pooling == "last" else torch.zeros(5, dtype=torch.long)
            pooled = hidden[torch.arange(5), at]
        dense = torch.nn.Linear(18, 3)
        dense.load_state_dict(
            {k.removeprefix("linear."): v for k, v in load_file(out / "2_Dense/model.safetensors").items()}
        )
        logits = dense(pooled)
    assert relative(outputs(model, variables, batch)["logits"], logits) <= PARITY

    again, same = load(out)
    assert again == model and again.info.pooling == pooling and again.info.labels == ("a", "b", "c")
    assert_same_bits(same, variables)
    assert_same_bits(load(out, pooling=pooling)[1], variables)  # as a run asks for it
    assert "head" not in load(out, pooling="cls" if pooling != "cls" else "mean")[1]["params"]
    assert_same_tensors(save(tmp_path / "twice", again, same), out)
    for folder in (out, out / "2_Dense"):  # as such folders were before there were safetensors
        pickle_weights(folder)
    assert_same_bits(load(out)[1], variables)


def test_other_labels_are_of_a_problem_of_one_label(tiny_bert: Maker, tmp_path: Path) -> None:
    """transformers' pipeline takes a sigmoid of a model for several labels at once, and nothing of a regression."""
    folder = tiny_bert("BertForSequenceClassification", num_labels=3)
    set_json(folder / "config.json", problem_type="multi_label_classification")
    model, variables = load(folder)
    kept = config_of(save(tmp_path / "same", model, variables))
    assert kept["problem_type"] == "multi_label_classification"
    tuned = config_of(save(tmp_path / "given", model, variables, labels=model.info.labels))
    assert tuned["problem_type"] == "single_label_classification"
    model = replace(model, info=replace(model.info, labels=("a", "b", "c")))
    other = save(tmp_path / "other", model, variables)
    assert config_of(other)["problem_type"] == "single_label_classification"

    import transformers

    pipe = transformers.pipeline("text-classification", model=str(other), top_k=None)
    (said,) = pipe(["the cat"])
    assert sum(answer["score"] for answer in said) == pytest.approx(1)


def test_labels_may_be_given_and_must_fit(tiny_bert: Maker, tmp_path: Path) -> None:
    model, variables = with_head(*load(tiny_bert()), ("a", "b"))
    save(tmp_path / "out", model, variables, labels=["x", "y"])
    assert config_of(tmp_path / "out")["id2label"] == {"0": "x", "1": "y"}
    for wrong in (["x"], ["x", "x"]):
        with pytest.raises(InputError, match="2 outputs, which need as many different labels"):
            save(tmp_path / "no", model, variables, labels=wrong)
    with pytest.raises(InputError, match="this model has no head"):
        save(tmp_path / "no", *load(tiny_bert()), labels=["x", "y"])
    assert not (tmp_path / "no").exists()


def test_config_names_the_dtype_of_the_weights(tiny_bert: Maker, tmp_path: Path) -> None:
    folder = tiny_bert(dtype="bfloat16")
    assert config_of(folder)["dtype"] == "bfloat16"
    assert config_of(save(tmp_path / "a", *load(folder)))["dtype"] == "bfloat16"
    assert config_of(save(tmp_path / "b", *load(folder, dtype="float32")))["dtype"] == "float32"
    masked = load(tiny_bert("BertForMaskedLM"), dtype="bfloat16")  # also what is carried over is in it
    assert config_of(save(tmp_path / "masked", *masked))["dtype"] == "bfloat16"
    assert {str(array.dtype) for array in tensors_of(tmp_path / "masked").values()} == {"torch.bfloat16"}
    model, variables = load(folder)
    variables["params"]["pooler"] = map_paths(lambda _, leaf: leaf.astype(np.float32), variables["params"]["pooler"])
    assert config_of(save(tmp_path / "c", model, variables))["dtype"] == "float32"  # the wider of the two
    set_json(folder / "config.json", dtype=None, torch_dtype="bfloat16")
    older = config_of(save(tmp_path / "d", *load(folder, dtype="float16")))
    assert older["torch_dtype"] == "float16" and "dtype" not in older


def test_jax_arrays_of_any_layout_are_written(tiny_bert: Maker, tmp_path: Path) -> None:
    folder = tiny_bert()
    model, variables = load(folder)
    on_device = map_paths(lambda _, leaf: jnp.asarray(leaf), variables)
    assert_same_tensors(save(tmp_path / "out", model, on_device), folder)


# -- what is refused, and what a failure leaves --------------------------------------------------------------------


def test_what_the_format_cannot_hold(tiny_bert: Maker, tmp_path: Path) -> None:
    model, variables = load(tiny_bert())
    adapters = {"lora": {"layers_0": {"mlp": {"up": {"a": np.zeros(3)}}}}}
    short = replace(model, stages=(*model.stages[:2], *model.stages[3:]))
    without = {"params": {k: v for k, v in variables["params"].items() if k != "layers_1"}}
    holed = {"params": {**variables["params"], "embeddings": None}}
    cases: list[tuple[Model, dict[str, Any], str]] = [
        (model, {**variables, "adapters": adapters}, "merge them first"),
        (short, without, "truncated: it lacks layers_1"),
        (model, without, "layers_1/.* is missing"),
        (model, holed, "embeddings/.* is missing"),
        (model.insert("layers_1", replace(model.stages[1], name="extra")), variables, "has the stages extra"),
    ]
    for broken, leaves, says in cases:
        with pytest.raises(InputError, match=says):
            save(tmp_path / "out", broken, leaves)
    assert not any(p.name.startswith((".out", "out")) for p in tmp_path.iterdir())


def test_a_tokenizer_that_went_away(tiny_bert: Maker, tmp_path: Path) -> None:
    folder = tiny_bert()
    model, variables = load(folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"vocab\.txt, which belongs to the model, is gone"):
        save(tmp_path / "out", model, variables)
    assert [p for p in tmp_path.iterdir() if p != folder] == []


def test_a_full_disk_leaves_what_was_there(tiny_bert: Maker, tmp_path: Path) -> None:
    folder = tiny_bert()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    program = (
        "import resource, sys; from tl_jax.pretrained import load, save\n"
        "model, variables = load(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))\n"
        "for place, overwrite in ((sys.argv[1], True), (sys.argv[1] + '-new', False)):\n"
        "    try: save(place, model, variables, overwrite=overwrite)\n"
        "    except OSError as e: print('refused:', e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.count("refused: could not write") == 2, done.stderr
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]
