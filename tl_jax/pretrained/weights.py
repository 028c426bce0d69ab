"""The weights of a folder, in whichever format it has: safetensors where they are, PyTorch's files otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tl_jax.errors import InputError
from tl_jax.pretrained import safetensors_files, torch_files
from tl_jax.pretrained.tensor_files import Tensors, read_folder

SUFFIXES = (".safetensors", *torch_files.SUFFIXES)


def read(folder: Path) -> Tensors:
    """The weights of a Hugging Face folder: one file, or the shards that an index names.

    Raises `InputError` for a folder without them (it says which other weights lie there), an index that its shards do
    not fit, and files that cannot be read.
    """
    for form in (safetensors_files, torch_files):
        found = read_folder(folder, form.SINGLE, form.INDEX, form.Tensors)
        if found is not None:
            return found
    raise InputError(no_weights(str(folder), (p.name for p in folder.iterdir())))


def read_file(path: Path) -> Tensors:
    """The tensors of one file: PyTorch's by its suffix, safetensors otherwise."""
    return (torch_files if path.suffix in torch_files.SUFFIXES else safetensors_files).Tensors([path])


def no_weights(where: str, names: Iterable[str]) -> str:
    """The message for a folder or repository whose files, `names`, hold no weights that are read."""
    names = sorted(names)
    if "adapter_config.json" in names:
        return f"{where} holds a PEFT adapter, not a model: give the model it was made for"
    wanted = f"{safetensors_files.SINGLE} or {torch_files.SINGLE}"
    other = [n for n in names if re.fullmatch(r"(flax_model|tf_model)\b.*\.(msgpack|h5)", n)]
    if other:
        return (
            f"{where} holds {other[0]} but no {wanted}, and only safetensors and PyTorch's files are read: "
            "convert it with transformers' save_pretrained"
        )
    return f"{where} holds no {wanted}" + (f" (only {', '.join(names[:8])})" if names else " (nothing at all)")
