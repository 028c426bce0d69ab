"""One door for models: a folder, a name on the hub, or a run of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tl_jax import pretrained
from tl_jax.errors import InputError
from tl_jax.model import Model
from tl_jax.run import open_run
from tl_jax.run_folder import RunFolder
from tl_jax.stage import State


def load(
    name: str | Path, *, model: Model | None = None, inputs: State | None = None, **options: Any
) -> tuple[Model, dict[str, Any]]:
    """`(model, variables)` of a pre-trained model or of a finished run (its best checkpoint, head and adapters).

    `options` are those of `tl_jax.pretrained.load` (pooling, dtype, revision, image_size, config); a run has them
    settled. Weights of your own `model` are read into it, from a folder that `tl.save` wrote or a file, safetensors or
    PyTorch's, with the same paths; `inputs` (shapes and dtypes) are needed where it does not start from tokens.
    """
    if model is not None:
        if options:
            raise InputError(f"{', '.join(options)} belong to models that are not your own")
        return pretrained.load_into(model, name, inputs)
    if not options and RunFolder(name).is_run:
        run = open_run(name)
        return run.model, run.variables
    return pretrained.load(name, **options)
