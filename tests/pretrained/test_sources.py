from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tl_jax.errors import InputError
from tl_jax.pretrained import Source, check_unchanged, fingerprint
from tl_jax.pretrained.sources import model_files

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"weights",
    "vocab.txt": b"a\nb\n",
    "1_Pooling/config.json": b"{ }",
    "2_Dense/model.safetensors": b"head",
}
OTHERS = (
    "README.md",
    "pytorch_model.bin",
    "onnx/model.safetensors",
    "modeling.py",
    ".git/config.json",
    "a/config.json",
)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    for name, content in {**FILES, **dict.fromkeys(OTHERS, b"no part of the model")}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return Source("some/model", tmp_path, "abc")


def test_each_file_of_the_model_and_no_other(source: Source) -> None:
    expected = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    assert fingerprint(source) == expected
    assert fingerprint(source.folder) == expected
    assert list(fingerprint(source)) == sorted(FILES)


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_may_change(source: Source, name: str) -> None:
    recorded = fingerprint(source)
    (source.folder / name).write_bytes(b"something else")
    check_unchanged(source, recorded)


def test_every_file_that_changed_is_named(source: Source) -> None:
    recorded = fingerprint(source)
    (source.folder / "model.safetensors").write_bytes(b"weighty")
    (source.folder / "vocab.txt").unlink()
    (source.folder / "modules.json").write_text("[]")
    with pytest.raises(InputError) as caught:
        check_unchanged(source, recorded)
    assert str(caught.value).splitlines() == [
        f"the weights in {source.folder} are not those recorded for this run:",
        "  model.safetensors has changed",
        "  modules.json is new",
        "  vocab.txt is gone",
    ]


def test_a_folder_that_moved(source: Source, tmp_path: Path) -> None:
    recorded = fingerprint(source)
    moved = tmp_path.with_name("moved")
    source.folder.rename(moved)
    with pytest.raises(InputError, match=f"folder {tmp_path} is gone"):
        check_unchanged(source, recorded)
    check_unchanged(Source("some/model", moved), recorded)


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], ["model-a/b-of-c.safetensors"]),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], ["training_args.bin", "onnx/model.bin"]),
        (["pytorch_model.bin", "2_Dense/model.safetensors"], ["2_Dense/pytorch_model.bin", "optimizer.pt"]),
        (["model.safetensors", "2_Dense/pytorch_model.bin"], ["pytorch_model.bin", "pytorch_model.bin.index.json"]),
        (["model.safetensors.index.json"], ["pytorch_model-00001-of-00002.bin"]),
    ],
)
def test_shards_and_pickles_belong_to_the_model(tmp_path: Path, names: list[str], others: list[str]) -> None:
    for name in names + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert list(model_files(tmp_path)) == sorted([*names, "config.json"])


def test_the_preprocessor_beside_a_file_alone_belongs_to_it(tmp_path: Path) -> None:
    source = Source("net.th", tmp_path, file="net.th")
    (tmp_path / "net.th").write_bytes(b"weights")
    recorded = fingerprint(source)
    assert list(recorded) == ["net.th"]
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"preprocessor_config\.json is new"):
        check_unchanged(source, recorded)


def test_a_source_says_where_it_is(source: Source) -> None:
    assert str(source) == "some/model@abc"
    assert str(Source("x", source.folder)) == str(source.folder)
