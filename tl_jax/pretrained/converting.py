"""From one folder of weights to another without the model in memory: a tensor is read when it is written."""

from __future__ import annotations

import os
from pathlib import Path

from tl_jax.pretrained.loading import load_deferred
from tl_jax.pretrained.saving import save
from tl_jax.pretrained.sources import Source


def convert(
    name_or_folder: str | os.PathLike[str] | Source,
    folder: str | os.PathLike[str],
    *,
    pooling: str = "auto",
    dtype: str | None = None,
    revision: str | None = None,
    format: str | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write pretrained weights anew, as `save` writes what `load` reads; returns the folder.

    However large the model, no more than two of its tensors are held. The arguments are those of `load` and of `save`,
    and so is what is raised.
    """
    model, variables = load_deferred(name_or_folder, pooling=pooling, dtype=dtype, revision=revision)
    return save(folder, model, variables, format=format, max_shard_size=max_shard_size, overwrite=overwrite)
