"""A finished folder takes the place of a model, and of nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.parity import assert_same_bits
from tests.pretrained.conftest import Maker
from tests.pretrained.test_saving import perturbed
from tl_jax.errors import InputError
from tl_jax.pretrained import load, save


def test_folders_in_the_way(tiny_bert: Maker, tmp_path: Path) -> None:
    model, variables = load(tiny_bert())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        save(tmp_path / "file", model, variables)
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", model, variables)
    with pytest.raises(InputError, match="has something in it"):
        save(tmp_path / "empty", model, variables)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").touch()
    with pytest.raises(InputError, match="holds no model"):
        save(tmp_path / "home", model, variables, overwrite=True)
    (tmp_path / "home/config.json").write_text("{}")
    with pytest.raises(InputError, match="holds no model"):
        save(tmp_path / "home", model, variables, overwrite=True)
    assert sorted(p.name for p in (tmp_path / "home").iterdir()) == ["config.json", "thesis.tex"]


def test_what_is_no_part_of_a_model_is_never_taken_away(tiny_bert: Maker, tmp_path: Path) -> None:
    folder = tiny_bert()
    model, variables = load(folder)
    for name in ("optimizer.pt", ".git/HEAD", "runs/a/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        with pytest.raises(InputError, match=re.escape(f"holds more than a model ({name})")):
            save(folder, model, perturbed(variables), overwrite=True)
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
        (folder / name).unlink()
    (folder / "README.md").write_text("a card")
    save(folder, model, perturbed(variables), overwrite=True)
    assert not (folder / "README.md").exists()


def test_overwriting_replaces_the_whole_folder_even_its_own_source(tiny_bert: Maker, tmp_path: Path) -> None:
    folder = tiny_bert(shard=3000)
    model, variables = load(folder)
    save(folder, model, perturbed(variables), overwrite=True)
    assert (folder / "model.safetensors").exists() and not list(folder.glob("model-*"))
    assert_same_bits(load(folder)[1], perturbed(variables))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
