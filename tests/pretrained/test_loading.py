"""What `load` makes of folders that transformers wrote; `test_saving.py` has the way back."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.parity import PARITY, relative
from tests.pretrained.conftest import Maker, outputs, pickle_weights, rewrite, set_json, texts
from tests.pretrained.test_tokenizer import byte_level_folder
from tl_jax.errors import InputError
from tl_jax.pretrained import load
from tl_jax.pretrained.weights import read
from tl_jax.rules import paths


def reference(folder: Path, kind: str, batch: dict[str, np.ndarray]) -> Any:
    """transformers' outputs in float32 on our processor's batch."""
    import torch
    import transformers

    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    inputs = {"input_ids": "tokens", "attention_mask": "mask", "token_type_ids": "token_type"}
    if not hasattr(model.config, "type_vocab_size"):
        del inputs["token_type_ids"]
    with torch.no_grad():
        return model(**{name: torch.as_tensor(batch[ours]).long() for name, ours in inputs.items()})


def assert_computes_the_same(folder: Path, kind: str, rng: np.random.Generator) -> None:
    model, variables = load(folder, dtype="float32")
    batch = model.info.processor(list(texts(rng, 5)), pairs=list(texts(rng, 5)))
    theirs, mask = reference(folder, kind, batch), batch["mask"]
    ours = outputs(model, variables, batch)
    if "logits" in theirs:
        assert relative(ours["logits"], theirs.logits) <= PARITY
    else:
        assert relative(np.asarray(ours["hidden"])[mask], theirs.last_hidden_state[mask]) <= PARITY
        pooled = theirs.pooler_output if "pooler_output" in theirs else theirs.last_hidden_state[:, 0]
        assert relative(ours["pooled"], pooled) <= PARITY


@pytest.mark.parametrize(
    ("kind", "shard"),
    [
        ("BertModel", 3000),
        ("BertForSequenceClassification", None),
        ("RobertaModel", None),
        ("RobertaForSequenceClassification", 3000),
        ("XLMRobertaForSequenceClassification", None),
        ("CamembertForSequenceClassification", None),
        ("DistilBertModel", None),
        ("DistilBertForSequenceClassification", None),
    ],
)
def test_computes_what_transformers_computes(
    tiny_bert: Maker, rng: np.random.Generator, kind: str, shard: int | None
) -> None:
    labels = {"num_labels": 5} if kind.endswith("Classification") else {}
    assert_computes_the_same(tiny_bert(kind, shard=shard, **labels), kind, rng)


def test_old_spellings_are_the_same_model(tiny_bert: Maker, rng: np.random.Generator) -> None:
    folder = tiny_bert()
    _, now = load(folder)
    rewrite(
        folder, lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    )
    rewrite(folder, lambda n: f"bert.{n}")
    model, then = load(folder)
    assert model.info.names["embeddings/norm/scale"] == "bert.embeddings.LayerNorm.gamma"
    jax.tree.map(np.testing.assert_array_equal, now, then)
    assert_computes_the_same(folder, "BertModel", rng)


@pytest.mark.parametrize("old", [False, True], ids=["present names", "old names"])
@pytest.mark.parametrize(("shards", "legacy"), [(1, False), (1, True), (3, False)])
def test_pickles_are_the_same_model(tiny_bert: Maker, shards: int, legacy: bool, old: bool) -> None:
    folder = tiny_bert()
    _, expected = load(folder)

    def older(name: str) -> str:
        return f"bert.{name}".replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")

    pickle_weights(folder, shards, older if old else str, legacy)
    model, variables = load(folder)
    assert (model.info.names["embeddings/norm/scale"] == "bert.embeddings.LayerNorm.gamma") == old
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_a_pickle_of_two_generations(tiny_bert: Maker) -> None:
    """What a file holds twice, under its old name and its present one, is told."""
    import torch

    folder = tiny_bert()
    pickle_weights(folder)
    tensors = torch.load(folder / "pytorch_model.bin")
    tensors["embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"gamma \[18\] -> embeddings/norm/scale, which is also embeddings\.Layer"):
        load(folder)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_parameters_keep_the_files_dtype_unless_asked(tiny_bert: Maker, dtype: str) -> None:
    folder = tiny_bert(dtype=dtype)
    _, variables = load(folder)
    assert {leaf.dtype.name for leaf in paths(variables).values()} == {dtype}
    _, wide = load(folder, dtype="float32")
    assert {leaf.dtype.name for leaf in paths(wide).values()} == {"float32"}
    for path, leaf in paths(variables).items():
        assert np.array_equal(leaf.astype(np.float32), paths(wide)[path]), path


def test_numbers_that_are_none_are_warned_of(tiny_bert: Maker, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny_bert()
    load(folder)
    assert not caplog.records
    bad = np.ones((29, 18), np.float32)
    bad[3, 4:7] = np.nan, np.inf, -np.inf
    rewrite(folder, lambda n: n, **{"encoder.layer.1.intermediate.dense.weight": bad})
    load(folder)
    (record,) = caplog.records
    said = f"{folder}: numbers that are NaN or infinite are in 1 tensors: layers_1/mlp/up/kernel (3)"
    assert record.levelname == "WARNING" and record.getMessage() == said


def test_params_are_plain_nested_dicts_in_the_order_of_the_chain(tiny_bert: Maker) -> None:
    model, variables = load(tiny_bert())
    assert list(variables) == ["params"]
    assert list(variables["params"]) == list(model.names)
    assert all(type(leaf) is np.ndarray for leaf in paths(variables).values())
    assert paths(variables)["layers_1/mlp/up/kernel"].shape == (18, 29)


def test_what_is_known_of_the_model_comes_along(tiny_bert: Maker) -> None:
    folder = tiny_bert()
    model, _ = load(folder)
    info = model.info
    assert (info.family, info.pooling, info.labels) == ("bert", "pooler", None)
    assert info.config == json.loads((folder / "config.json").read_text())
    assert info.source.folder == folder and info.source.revision is None
    assert info.alias is not None and info.alias("encoder.layer.1") == "layers_1"
    assert info.processor.max_length == 23
    assert model == load(folder)[0] and hash(model) == hash(load(folder)[0])


def test_arrays_outlive_their_file(tiny_bert: Maker) -> None:
    folder = tiny_bert()
    _, variables = load(folder)
    before = {path: leaf.copy() for path, leaf in paths(variables).items()}
    with open(folder / "model.safetensors", "r+b") as file:
        file.write(b"\xff" * (folder / "model.safetensors").stat().st_size)
    shutil.rmtree(folder)
    for path, leaf in paths(variables).items():
        assert np.array_equal(leaf, before[path]), path


# -- which pooling, which head -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "pooling", "stages"),
    [
        ("BertModel", "pooler", {"pooler"}),
        ("BertForSequenceClassification", "pooler", {"pooler", "head"}),
        ("BertForPreTraining", "pooler", {"pooler"}),
        ("BertForNextSentencePrediction", "pooler", {"pooler"}),
        ("BertForMaskedLM", "cls", set()),
        ("BertForTokenClassification", "cls", set()),
        ("BertForQuestionAnswering", "cls", set()),
        ("RobertaModel", "pooler", {"pooler"}),
        ("RobertaForSequenceClassification", "pooler", {"pooler", "head"}),
        ("RobertaForMaskedLM", "cls", set()),
        ("RobertaForTokenClassification", "cls", set()),
        ("RobertaForQuestionAnswering", "cls", set()),
        ("RobertaForMultipleChoice", "pooler", {"pooler"}),
        ("DistilBertModel", "cls", set()),
        ("DistilBertForSequenceClassification", "pooler", {"pooler", "head"}),
        ("DistilBertForMaskedLM", "cls", set()),
        ("DistilBertForTokenClassification", "cls", set()),
        ("DistilBertForQuestionAnswering", "cls", set()),
        ("DistilBertForMultipleChoice", "pooler", {"pooler"}),
    ],
)
def test_auto_follows_the_class(tiny_bert: Maker, kind: str, pooling: str, stages: set[str]) -> None:
    folder = tiny_bert(kind)
    model, variables = load(folder)
    assert model.info.pooling == pooling
    assert set(variables["params"]) - {"embeddings", "layers_0", "layers_1"} == stages
    assert set(model.info.names.values()) | set(model.info.carried) == set(read(folder))
    assert not set(model.info.names.values()) & set(model.info.carried)


@pytest.mark.parametrize(
    ("kind", "behind"),
    [
        ("BertForSequenceClassification", ("bert.pooler.dense", "classifier")),
        ("RobertaForSequenceClassification", ("classifier.dense", "classifier.out_proj")),
        ("DistilBertForSequenceClassification", ("pre_classifier", "classifier")),
    ],
)
def test_a_pooling_chosen_by_hand_leaves_pooler_and_head_behind(
    tiny_bert: Maker, kind: str, behind: tuple[str, ...]
) -> None:
    model, variables = load(tiny_bert(kind), pooling="mean")
    assert model.info.pooling == "mean"
    assert model.names[-1] == "pooler" and "pooler" not in variables["params"]
    assert model.info.labels is None
    assert set(model.info.carried) == {f"{name}.{part}" for name in behind for part in ("weight", "bias")}


def test_a_classifier_reads_its_own_dense_layer_where_the_file_has_a_pooler_too(
    tiny_bert: Maker, rng: np.random.Generator
) -> None:
    """As those that early versions of transformers wrote; the pooler is carried over, and never computed."""
    folder = tiny_bert("RobertaForSequenceClassification")
    pooler = {
        f"roberta.pooler.dense.{part}": np.ones(shape, np.float32)
        for part, shape in (("weight", (18, 18)), ("bias", 18))
    }
    rewrite(folder, lambda n: n, **pooler)
    model, _ = load(folder)
    assert set(model.info.carried) == set(pooler)
    assert model.info.names["pooler/dense/kernel"] == "classifier.dense.weight"
    assert_computes_the_same(folder, "RobertaForSequenceClassification", rng)


def test_the_head_comes_with_its_labels(tiny_bert: Maker) -> None:
    names = {i: f"intent {i}" for i in range(12)}  # in the file as strings, "10" before "2"
    model, variables = load(tiny_bert("BertForSequenceClassification", id2label=names))
    assert model.info.labels == tuple(names.values())
    assert variables["params"]["head"]["kernel"].shape == (18, 12)


def test_without_id2label_the_labels_are_transformers_own(tiny_bert: Maker) -> None:
    folder = tiny_bert("BertForSequenceClassification")
    assert "id2label" not in json.loads((folder / "config.json").read_text())
    assert load(folder)[0].info.labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("BertForMaskedLM", "bert.pooler.dense"),
        ("RobertaForMaskedLM", "roberta.pooler.dense"),
        ("DistilBertForMaskedLM", "pre_classifier"),
    ],
)
def test_a_pooler_asked_for_must_be_there(tiny_bert: Maker, kind: str, name: str) -> None:
    missing = rf"(?s)missing \(2\):.*  {re.escape(name)}\.weight \[18, 18\] -> pooler/dense"
    with pytest.raises(InputError, match=missing):
        load(tiny_bert(kind), pooling="pooler")


def test_dropout_of_the_head_follows_the_config(tiny_bert: Maker) -> None:
    folder = tiny_bert("BertForSequenceClassification", hidden_dropout_prob=0.3)
    assert load(folder)[0].stages[-1].module.dropout == 0.3
    set_json(folder / "config.json", classifier_dropout=0.0)
    assert load(folder)[0].stages[-1].module.dropout == 0.0


# -- what cannot be loaded -----------------------------------------------------------------------------------------


def test_missing_extra_and_misshapen_are_told_at_once(tiny_bert: Maker) -> None:
    folder = tiny_bert()
    rewrite(
        folder,
        lambda n: None if n == "encoder.layer.1.output.dense.bias" else n,
        **{"encoder.layer.2.output.dense.bias": np.zeros(18, np.float32), "extra.weight": np.zeros(3, np.float32)},
    )
    set_json(folder / "config.json", max_position_embeddings=24)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert str(caught.value).splitlines() == [
        f"{folder} does not fit the model its config.json describes",
        "missing (1):",
        "  encoder.layer.1.output.dense.bias [18] -> layers_1/mlp/down/bias",
        "extra (2):",
        "  encoder.layer.2.output.dense.bias [18] -> layers_2/mlp/down/bias",
        "  extra.weight [3]",
        "misshapen (1):",
        "  embeddings.position_embeddings.weight [23, 18] -> embeddings/position/embedding: expected [24, 18]",
    ]


def test_a_folder_that_is_no_model(tiny_bert: Maker) -> None:
    folder = tiny_bert()
    with pytest.raises(InputError, match=f"holds no config.json; did you mean {folder}"):
        load(folder.parent)
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(InputError, match="PEFT adapter, not a model"):
        load(folder)


def test_words_that_are_misspelt(tiny_bert: Maker) -> None:
    folder = tiny_bert()
    with pytest.raises(InputError, match="unknown pooling 'maen'; did you mean 'mean'"):
        load(folder, pooling="maen")
    with pytest.raises(InputError, match="unknown dtype 'float'"):
        load(folder, dtype="float")


def test_only_weights_are_read_from_other_folders(tiny_bert: Maker) -> None:
    folder = tiny_bert()
    (folder / "vocab.txt").unlink()
    model, _ = load(folder)
    assert model.info.processor is None
    assert replace(model.info, processor=None) == model.info


def test_a_roberta_with_its_own_tokenizer(tiny_bert: Maker, tmp_path: Path, rng: np.random.Generator) -> None:
    """Its pad token is 1, so of 25 positions a text has 23."""
    words = byte_level_folder(tmp_path / "words")
    size = len(json.loads((words / "vocab.json").read_text("utf-8")))
    folder = tiny_bert(
        "RobertaForSequenceClassification",
        vocab_size=size,
        pad_token_id=1,
        max_position_embeddings=25,
        type_vocab_size=1,
    )
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    for path in words.iterdir():
        if path.name != "config.json":
            shutil.copyfile(path, folder / path.name)
    model, _ = load(folder)
    assert model.processor.max_length == 23
    batch = model.processor(["a " * 40, "a"])
    assert batch["tokens"].shape == (2, 23) and (batch["tokens"][1, 3:] == 1).all()
    assert_computes_the_same(folder, "RobertaForSequenceClassification", rng)
    with pytest.raises(InputError, match="max_length 24 is more than the 23 positions the model has"):
        model.processor.encode(["a"], 24)
