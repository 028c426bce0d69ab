"""One door for models: a folder, a name on the hub, or a run of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tl_jax import pretrained
from tl_jax.model import Model
from tl_jax.run import open_run
from tl_jax.run_folder import RunFolder


def load(name: str | Path, **options: Any) -> tuple[Model, dict[str, Any]]:
    """`(model, variables)` of a pre-trained model or of a finished run (its best checkpoint, head and adapters).

    `options` are those of `tl_jax.pretrained.load` (pooling, dtype, revision); a run has them settled.
    """
    if not options and RunFolder(name).is_run:
        run = open_run(name)
        return run.model, run.variables
    return pretrained.load(name, **options)
