from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tl_jax.errors import InputError
from tl_jax.pretrained.pooling import Modules, choose, mode_config, read_mode, read_modules

OFF = dict.fromkeys(("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens"), False)


def modules(
    folder: Path, *kinds: str, pooling: dict[str, Any] | None = None, types: str = "sentence_transformers.models."
) -> Path:
    content = [{"path": f"{i}_{kind}" if i else "", "type": types + kind} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(content))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({**OFF, "pooling_mode_mean_tokens": True, "word_embedding_dimension": 384}, "mean"),
        ({**OFF, "pooling_mode_cls_token": True, "include_prompt": True}, "cls"),
        ({**OFF, "pooling_mode_lasttoken": True}, "last"),
        ({"embedding_dimension": 384, "pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
    ],
)
def test_modes_we_compute(tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    folder = modules(tmp_path, "Transformer", "Pooling", "Normalize", pooling=config)
    assert read_modules(folder) == Modules(expected)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**OFF, "pooling_mode_max_tokens": True}, "max_tokens is not supported"),
        (
            {**OFF, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            r"cls_token \+ mean_tokens is not supported",
        ),
        ({"pooling_mode": "weightedmean"}, "weightedmean is not supported"),
        (OFF, r"\(none\) is not supported"),
    ],
)
def test_modes_we_do_not(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"1_Pooling/config.json: the pooling {says}; choose one yourself: --pooling"):
        read_modules(modules(tmp_path, "Transformer", "Pooling", pooling=config))


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_what_is_written_is_read(tmp_path: Path, pooling: str) -> None:
    config = mode_config(pooling, 18)
    assert sum(value is True for key, value in config.items() if key.startswith("pooling_mode_")) == 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_mode(tmp_path / "config.json") == pooling


def test_modules_are_known_by_their_last_name(tmp_path: Path) -> None:
    folder = modules(tmp_path, "Transformer", "Pooling", "Dense", pooling=mode_config("cls", 18), types="elsewhere.v6.")
    assert read_modules(folder) == Modules("cls", "2_Dense")


@pytest.mark.parametrize("kinds", [["Transformer"], ["Transformer", "Pooling", "Dense", "Dense"], ["CLIPModel"], []])
def test_chains_we_do_not_compute(tmp_path: Path, kinds: list[str]) -> None:
    with pytest.raises(InputError, match=r"modules\.json chains"):
        read_modules(modules(tmp_path, *kinds))


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[1]", '[{"path": ""}]'])
def test_a_file_that_lists_no_modules(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(InputError, match=r"not a list of modules|is not JSON"):
        read_modules(tmp_path)


def test_a_pooling_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1_Pooling/config\.json, which is missing"):
        read_modules(modules(tmp_path, "Transformer", "Pooling"))


@pytest.mark.parametrize("place", ["../elsewhere", "/etc"])
def test_modules_outside_of_the_folder(tmp_path: Path, place: str) -> None:
    content = [{"path": "", "type": "models.Transformer"}, {"path": place, "type": "models.Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="lies outside of the model's folder"):
        read_modules(tmp_path)


def test_no_modules(tmp_path: Path) -> None:
    assert read_modules(tmp_path) is None


@pytest.mark.parametrize(
    ("choice", "found", "paths", "expected"),
    [
        ("auto", Modules("last"), ["pooler/dense/kernel"], "last"),
        ("auto", None, ["layers_0/mlp/up/kernel", "pooler/dense/kernel"], "pooler"),
        ("auto", None, ["layers_0/mlp/up/kernel"], "cls"),
        ("mean", Modules("last"), ["pooler/dense/kernel"], "mean"),
    ],
)
def test_choice(choice: str, found: Modules | None, paths: list[str], expected: str) -> None:
    assert choose(choice, found, paths) == expected


def test_other_words() -> None:
    with pytest.raises(InputError, match=r"unknown pooling 'averge'.*auto, cls, mean, last, pooler"):
        choose("averge", None, [])
