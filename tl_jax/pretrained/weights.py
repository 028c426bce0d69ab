"""The weights of a folder, whatever their format."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tl_jax.errors import InputError
from tl_jax.pretrained import safetensors_files
from tl_jax.pretrained.safetensors_files import SINGLE
from tl_jax.pretrained.tensor_files import Tensors, read_folder


def read(folder: Path) -> Tensors:
    """The weights of a Hugging Face folder: one file, or the shards that an index names.

    Raises `InputError` for a folder without them (it says which other weights lie there), an index that its shards do
    not fit, and files that cannot be read.
    """
    found = read_folder(folder, safetensors_files.SINGLE, safetensors_files.INDEX, safetensors_files.Tensors)
    if found is None:
        raise InputError(no_weights(str(folder), (p.name for p in folder.iterdir())))
    return found


def no_weights(where: str, names: Iterable[str]) -> str:
    """The message for a folder or repository whose files, `names`, hold no safetensors weights."""
    names = sorted(names)
    if "adapter_config.json" in names:
        return f"{where} holds a PEFT adapter, not a model: give the model it was made for"
    other = [n for n in names if re.fullmatch(r"(pytorch_model|flax_model|tf_model)\b.*\.(bin|msgpack|h5)", n)]
    if other:
        return (
            f"{where} holds {other[0]} but no {SINGLE}, and only safetensors are read: "
            "convert it with transformers' save_pretrained(safe_serialization=True)"
        )
    return f"{where} holds no {SINGLE}" + (f" (only {', '.join(names[:8])})" if names else " (nothing at all)")
