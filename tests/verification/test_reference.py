"""Where a stage is looked for in the reference: the module that holds its parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import write_bert
from tests.verification.test_checking import classifier_folder
from tl_jax.pretrained import load
from tl_jax.verification import reference

LAYER = {"bert": "encoder.layer.1", "roberta": "encoder.layer.1", "distilbert": "transformer.layer.1"}
POOLER = {"bert": "pooler.dense", "roberta": "classifier.dense", "distilbert": "pre_classifier"}
HEAD = {"bert": "classifier", "roberta": "classifier.out_proj", "distilbert": "classifier"}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_modules_of_a_classifier(kind: str, tmp_path: Path) -> None:
    found = reference.modules(*load(classifier_folder(tmp_path / "model", kind, "pooler", 0)))
    assert found == {
        "embeddings": ["embeddings", f"{kind}.embeddings"],
        "layers_0": [LAYER[kind].replace("1", "0"), f"{kind}.{LAYER[kind].replace('1', '0')}"],
        "layers_1": [LAYER[kind], f"{kind}.{LAYER[kind]}"],
        "pooler": [POOLER[kind]] + ([f"{kind}.{POOLER[kind]}"] if kind == "bert" else []),
        "head": [HEAD[kind]],
    }


@pytest.mark.parametrize("kind", LAYER)
def test_a_stage_without_parameters_has_none(kind: str, tmp_path: Path) -> None:
    found = reference.modules(*load(write_bert(tmp_path / "model", kind=kind)))
    assert found["layers_1"] == [LAYER[kind]] and found["pooler"] == []


def test_what_is_installed_is_found_without_importing_it() -> None:
    assert reference.missing() == []
