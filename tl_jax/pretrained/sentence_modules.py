"""The files by which sentence-transformers finds what comes behind an encoder: its pooling, and a head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_jax.errors import InputError
from tl_jax.pretrained.describing import IDENTITY
from tl_jax.pretrained.json_files import copy, write_json
from tl_jax.pretrained.pooling import mode_config, read_modules
from tl_jax.pretrained.safetensors_files import SINGLE, write

_MODULE = "sentence_transformers.models."


def write_modules(
    folder: Path, pooling: str, width: int, max_length: int | None, dense: Mapping[str, Any] | None = None
) -> None:
    """The modules of an encoder of that `width` and pooling, which has no files of its own for them.

    `dense` is a head, by its foreign names; `max_length` is written where the tokenizer's files do not say one.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([] if dense is None else [("2_Dense", "Dense")])]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": p, "type": _MODULE + kind} for i, (p, kind) in enumerate(modules)],
    )
    for place, _ in modules[1:]:
        (folder / place).mkdir()
    write_json(folder / "1_Pooling" / "config.json", mode_config(pooling, width))
    if dense is not None:
        labels, inputs = dense["linear.weight"].shape
        settings = {"in_features": inputs, "out_features": labels, "bias": True, "activation_function": IDENTITY}
        write_json(folder / "2_Dense" / "config.json", settings)
        write(folder / "2_Dense" / SINGLE, dense)
    settings_file = folder / "sentence_bert_config.json"
    if max_length is not None and not settings_file.exists():
        write_json(settings_file, {"max_seq_length": max_length, "do_lower_case": False})


def copy_modules(source: Path, pooling: str, width: int, folder: Path) -> bool:
    """The modules of an encoder that came as a sentence-transformers folder, with the pooling it has now.

    False where `source` is no such folder, or one of a chain we do not compute.
    """
    try:
        known = read_modules(source)
    except InputError:  # a chain we do not compute: the pooling was chosen by hand
        return False
    if known is None:
        return False
    modules = [m for m in json.loads((source / "modules.json").read_text("utf-8")) if m["path"] != known.dense]
    write_json(folder / "modules.json", modules)
    place = next(m["path"] for m in modules if m["type"].endswith("Pooling"))
    (folder / place).mkdir()
    if known.pooling == pooling:
        copy(source / place / "config.json", folder / place / "config.json")
    else:
        write_json(folder / place / "config.json", mode_config(pooling, width))
    extra = source / "config_sentence_transformers.json"
    if extra.is_file():
        copy(extra, folder / extra.name)
    return True
