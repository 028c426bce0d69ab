"""Encoders of sentence-transformers: modules come along, or are written where they are asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.parity import relative
from tests.pretrained.conftest import Maker, assert_same_tensors, outputs, texts
from tests.pretrained.test_saving import config_of
from tl_jax.errors import InputError
from tl_jax.pretrained import convert, load, save


@pytest.fixture
def sentence_bert(tiny_bert: Maker) -> Path:
    return sentence_folder(tiny_bert())


def sentence_folder(folder: Path) -> Path:
    """The folder with the modules of sentence-transformers in it: mean pooling, and vectors of length one."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{kind}"}
        for i, (p, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 18, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 11}')
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {}}')
    return folder


def test_its_modules_come_along(sentence_bert: Path, tmp_path: Path) -> None:
    model, variables = load(sentence_bert)
    assert model.info.pooling == "mean" and model.info.processor.max_length == 11
    out = save(tmp_path / "out", model, variables)
    assert_same_tensors(out, sentence_bert)
    assert json.loads((out / "modules.json").read_text()) == json.loads((sentence_bert / "modules.json").read_text())
    for name in ("1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        assert (out / name).read_bytes() == (sentence_bert / name).read_bytes()


@pytest.mark.parametrize("kind", ["BertModel", "RobertaModel", "DistilBertModel"])
def test_another_pooling_is_written_with_its_width(tiny_bert: Maker, tmp_path: Path, kind: str) -> None:
    out = save(tmp_path / "cls", *load(sentence_folder(tiny_bert(kind)), pooling="cls"))
    assert load(out)[0].info.pooling == "cls"
    assert config_of(out / "1_Pooling")["word_embedding_dimension"] == 18


def test_its_pooling_is_the_one_in_effect(sentence_bert: Path, tmp_path: Path) -> None:
    out = save(tmp_path / "pooler", *load(sentence_bert, pooling="pooler"))
    assert not (out / "modules.json").exists()
    assert load(out)[0].info.pooling == "pooler"


def test_a_dense_layer_that_is_no_head_of_ours(sentence_bert: Path) -> None:
    modules = json.loads((sentence_bert / "modules.json").read_text())
    modules[2] |= {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (sentence_bert / "modules.json").write_text(json.dumps(modules))
    (sentence_bert / "2_Dense").mkdir()
    (sentence_bert / "2_Dense/config.json").write_text(
        json.dumps({"in_features": 18, "out_features": 7, "activation_function": "torch.nn.modules.activation.Tanh"})
    )
    with pytest.raises(InputError, match=r"2_Dense is no classifier.*--pooling mean"):
        load(sentence_bert)
    (sentence_bert / "2_Dense/config.json").unlink()
    with pytest.raises(InputError, match=r"there is no file .*2_Dense/config\.json"):
        load(sentence_bert)
    shutil.rmtree(sentence_bert / "2_Dense")
    (sentence_bert / "2_Dense").mkdir()
    (sentence_bert / "2_Dense/config.json").write_text("{}")
    assert load(sentence_bert, pooling="mean")[0].names[-1] == "pooler"


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_an_encoder_gets_modules_where_they_are_asked_for(
    tiny_bert: Maker, tmp_path: Path, rng: np.random.Generator, pooling: str
) -> None:
    plain = tiny_bert()
    out = convert(plain, tmp_path / "out", pooling=pooling, format="sentence-transformers")
    kinds = [(m["type"].rpartition(".")[2], m["path"]) for m in json.loads((out / "modules.json").read_text())]
    assert kinds == [("Transformer", ""), ("Pooling", "1_Pooling")]
    model, variables = load(out)
    assert model.info.pooling == pooling and model.info.processor.max_length == 23
    assert_same_tensors(out, plain)
    given = model.info.processor(list(texts(rng, 3)))
    same = outputs(*load(plain, pooling=pooling), given)
    assert relative(outputs(model, variables, given)["pooled"], same["pooled"]) == 0


def test_modules_that_a_folder_has_stay_where_they_are_asked_for(sentence_bert: Path, tmp_path: Path) -> None:
    out = convert(sentence_bert, tmp_path / "out", format="sentence-transformers")
    assert json.loads((out / "modules.json").read_text()) == json.loads((sentence_bert / "modules.json").read_text())


def test_a_pooler_is_no_module(tiny_bert: Maker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no pooler: --pooling cls, mean or last"):
        convert(tiny_bert(), tmp_path / "out", format="sentence-transformers")
    assert not (tmp_path / "out").exists()
