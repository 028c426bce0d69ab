"""Where weights came from, and whether they are still the same: a SHA-256 of each file a model is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tl_jax.errors import InputError
from tl_jax.pretrained.json_files import read_json

_PREPROCESSOR = "preprocessor_config.json"
# What a model is made of: all that loading may read, all that is fetched from a hub, all that a fingerprint covers.
# Never code or the same weights in another format.
FILES = (
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    _PREPROCESSOR,
    "sentencepiece.bpe.model",  # for a folder of it alone to be told what it lacks
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "[0-9]_Pooling/config.json",
    "[0-9]_Dense/config.json",
    "[0-9]_Dense/model.safetensors",
)
# And PyTorch's files, where no safetensors lie beside them.
TORCH_FILES = (
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
    "[0-9]_Dense/pytorch_model.bin",
)
# And a Llama as Meta or llama2.c write it, where there is neither, or no config.json that says what they are of.
META_FILES = ("params.json", "*.safetensors", "*.pth", "*.pt", "tok*.bin")
# What goes with a language model wherever it goes, though nothing here reads it: fetched, and written again.
BESIDE = ("generation_config.json", "chat_template.jinja")
# What a folder's weights are read from: the first of the one, or else of the other.
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_TORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Source:
    """A folder of weights, or one `file` in it: the `name` it was asked for by, the `folder`, and the hub's commit
    where it has one."""

    name: str
    folder: Path
    revision: str | None = None
    file: str | None = None

    @property
    def place(self) -> Path:
        """The file, or else the folder."""
        return self.folder / self.file if self.file else self.folder

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else str(self.place)


def patterns(names: Iterable[str]) -> tuple[str, ...]:
    """What a model's folder that holds `names` is made of: no PyTorch file where safetensors lie beside it."""
    places = [place for place, _, file in (name.rpartition("/") for name in names) if file in _SAFETENSORS]
    hidden = [p for p in TORCH_FILES if any(fnmatchcase(place, p.rpartition("/")[0]) for place in places)]
    return (*FILES, *(p for p in TORCH_FILES if p not in hidden))


def has_weights(names: Iterable[str]) -> bool:
    """Whether a folder that holds `names` has weights that are read."""
    return not {*_SAFETENSORS, *_TORCH}.isdisjoint(names)


def model_files(folder: Path) -> dict[str, Path]:
    """The files of `folder` that belong to the model, by name relative to it, sorted."""
    wanted = patterns(_found(folder, FILES))
    if not has_weights(path.name for path in folder.iterdir()) or not _says_its_family(folder):
        wanted = (*wanted, *META_FILES)
    return {name: folder / name for name in sorted(_found(folder, wanted))}


def fingerprint(source: Source | Path) -> dict[str, str]:
    """The SHA-256, in hex, of each file the model is made of, by name relative to its folder.

    Files that loading does not read (a README, a pickle of the same weights) do not count. Streamed: takes about a
    second per gigabyte and no memory.
    """
    folder = source.folder if isinstance(source, Source) else source
    if isinstance(source, Source) and source.file is not None:
        if not source.place.is_file():
            raise InputError(f"the weights' file {source.place} is gone: give the place it was moved to")
        beside = source.folder / _PREPROCESSOR  # of images' weights, it says how they are prepared
        return {path.name: _sha256(path) for path in (source.place, beside) if path.is_file()}
    if not folder.is_dir():
        raise InputError(f"the weights' folder {folder} is gone: give the place it was moved to")
    return {name: _sha256(path) for name, path in model_files(folder).items()}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The files in which two fingerprints differ, sorted: each is "gone", "new" or "changed"."""
    return {
        name: "gone" if name not in now else "new" if name not in before else "changed"
        for name in sorted({*now, *before})
        if now.get(name) != before.get(name)
    }


def check_unchanged(source: Source, recorded: Mapping[str, str]) -> None:
    """Check that the model's files are those of a `fingerprint` recorded earlier.

    Raises `InputError` naming every file that is gone, changed or new.
    """
    found = changes(recorded, fingerprint(source))
    if faults := [f"  {name} {'has' if what == 'changed' else 'is'} {what}" for name, what in found.items()]:
        raise InputError(f"the weights in {source.place} are not those recorded for this run:\n" + "\n".join(faults))


def _says_its_family(folder: Path) -> bool:
    """Whether config.json names a `model_type`, as Hugging Face's do; one that cannot be read is told of by loading."""
    try:
        return "model_type" in read_json(folder / "config.json")
    except InputError:
        return False


def _found(folder: Path, wanted: Iterable[str]) -> list[str]:
    return [p.relative_to(folder).as_posix() for pattern in wanted for p in folder.glob(pattern) if p.is_file()]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
