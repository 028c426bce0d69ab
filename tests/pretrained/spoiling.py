"""How the folder of a model is spoilt, for tests of what is said then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.pretrained import torch_forgery as forge
from tests.pretrained.conftest import set_json
from tests.pretrained.torch_forgery import called, named, plain
from tests.tiny import write_bert
from tl_jax.pretrained import weights
from tl_jax.pretrained.safetensors_files import INDEX, SINGLE, write, write_folder

Spoil = Callable[[Path], Any]


def raw(content: bytes) -> Spoil:
    """These bytes in the place of the weights."""
    return lambda folder: (folder / SINGLE).write_bytes(content)


def framed(header: str | bytes, data: bytes = b"", length: int | None = None) -> Spoil:
    """A safetensors file of any header, which may lie about its length."""
    text = header.encode() if isinstance(header, str) else header
    return raw((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(name: str = "a", dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> str:
    """A tensor's entry in a header."""
    described = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return f"{json.dumps(name)}:{json.dumps(described)}"


def holding(*entries: str, data: bytes = b"0000") -> Spoil:
    """A safetensors file of these entries."""
    return framed("{" + ",".join(entries) + "}", data)


def tensors(changed: dict[str, np.ndarray | None]) -> Spoil:
    """The folder's tensors with some changed, added, or (None) left out."""

    def spoil(folder: Path) -> None:
        found = {**weights.read(folder), **changed}
        write(folder / SINGLE, {name: a for name, a in found.items() if a is not None})

    return spoil


def renamed(change: Callable[[str], str]) -> Spoil:
    """The folder's tensors under other names."""
    return lambda folder: write(folder / SINGLE, {change(name): a for name, a in weights.read(folder).items()})


def config(**values: Any) -> Spoil:
    """The folder's config.json with other values."""
    return lambda folder: set_json(folder / "config.json", **values)


def file(name: str, content: str | bytes) -> Spoil:
    """A file of the folder with another content."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def endless(name: str, size: int) -> Spoil:
    """A file of `size` zeros, which take no place on disk."""

    def spoil(folder: Path) -> None:
        with open(folder / name, "wb") as made:
            made.truncate(size)

    return spoil


def index(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """The folder's weights in shards, and an index that is changed, or that is what `change` returns."""

    def spoil(folder: Path) -> None:
        shards(folder)
        content = json.loads((folder / INDEX).read_text())
        changed = change(content["weight_map"])
        (folder / INDEX).write_text(changed if isinstance(changed, str) else json.dumps(content))

    return spoil


def shards(folder: Path) -> list[Path]:
    """The folder's weights in shards."""
    found = dict(weights.read(folder))
    (folder / SINGLE).unlink()
    write_folder(folder, found, "9KB")
    return sorted(folder.glob("model-*"))


def cut(path: Path, kept: int) -> None:
    """The file without its end; `kept` below 0 is what is taken off."""
    path.write_bytes(path.read_bytes()[:kept])


def link(name: str) -> Spoil:
    """A file of the folder in another place, and a link to it."""

    def spoil(folder: Path) -> None:
        outside = folder.parent / "secret"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return spoil


def shard_elsewhere(folder: Path) -> None:
    """A second shard that is a link to a file beside the folder."""
    second = shards(folder)[1]
    second.rename(folder.parent / "secret")
    second.symlink_to(folder.parent / "secret")


def folder_elsewhere(folder: Path) -> None:
    """A folder of the model's that is a link."""
    (folder.parent / "secret").mkdir()
    (folder.parent / "secret" / "config.json").write_text("{}")
    (folder / "1_Pooling").symlink_to(folder.parent / "secret")


def pickled(folder: Path) -> None:
    """PyTorch's file in the place of the weights, which would make a file when unpickled."""
    (folder / SINGLE).unlink()
    touch = called(named("os", "system"), plain(f"touch {folder / 'made'}"))
    forge.write_zip(folder / "pytorch_model.bin", touch)


def twice(folder: Path) -> None:
    """A tensor in two shards."""
    first, second = shards(folder)[:2]
    (name, *_) = found = dict(weights.read_file(first))
    write(second, {**weights.read_file(second), name: found[name]})


def another_family(kind: str) -> Spoil:
    """The weights of another family."""

    def spoil(folder: Path) -> None:
        other = write_bert(folder.parent / "other", pooling="pooler" if kind == "roberta" else "cls", kind=kind)
        shutil.copyfile(other / SINGLE, folder / SINGLE)

    return spoil
