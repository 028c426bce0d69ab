"""What verifying leaves in a model's folder: a certificate, and the outputs that were found right.

`verification.json` says what was compared with what, how far apart they were, and of which weights; it is for people
and for machines. `verification.safetensors` holds the inputs and what the reference computed at every stage, so that
the same can be asked again where there is no reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax.errors import InputError
from tl_jax.pretrained import safetensors_files, weights
from tl_jax.pretrained.json_files import read_json, write_json
from tl_jax.rules import paths

FILE, GOLDEN = "verification.json", "verification.safetensors"
_AGAIN = "verify the model again where torch and transformers are installed"


@dataclass(frozen=True)
class Certificate:
    """A verification that passed.

    `stages` are, by name, `{"writes": key, "error": max|a - b| / max|b|, "bound": what it may be}`. `files` are the
    SHA-256 of the folder's files, `tensors` those of each parameter, dtype and shape included; `golden` is that of the
    outputs beside it.
    """

    made: str
    reference: str
    versions: Mapping[str, str]
    pooling: str
    stages: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, str]
    tensors: Mapping[str, str]
    golden: str = ""


def exists(folder: Path) -> bool:
    """Whether a folder holds a certificate."""
    return (folder / FILE).is_file()


def write(
    folder: Path, certificate: Certificate, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> Path:
    """Put a certificate and its outputs into a folder that there is; returns its file.

    Raises `InputError` if the disk refuses.
    """
    tensors = {f"inputs/{key}": value for key, value in inputs.items()}
    tensors |= {f"outputs/{stage}": value for stage, value in outputs.items()}
    try:
        safetensors_files.write(folder / GOLDEN, tensors)
        write_json(folder / FILE, {**asdict(certificate), "golden": _sha256(folder / GOLDEN)})
    except OSError as e:
        raise InputError(f"cannot write the certificate to {folder} ({e}): --out gives it another folder") from None
    return folder / FILE


def read(folder: Path) -> tuple[Certificate, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A folder's certificate, its inputs and its outputs by stage; raises `InputError` for what is damaged."""
    content = read_json(folder / FILE)
    if content.keys() != {field.name for field in fields(Certificate)}:
        raise InputError(f"{folder / FILE} is not a certificate of this version: {_AGAIN}")
    certificate = Certificate(**content)
    if not (folder / GOLDEN).is_file() or _sha256(folder / GOLDEN) != certificate.golden:
        raise InputError(f"{folder / GOLDEN} is not what {FILE} beside it was written with: {_AGAIN}")
    tensors = weights.read_file(folder / GOLDEN)
    parts: dict[str, dict[str, np.ndarray]] = {"inputs": {}, "outputs": {}}
    for name in tensors:
        part, _, key = name.partition("/")
        parts[part][key] = tensors[name]
    return certificate, parts["inputs"], parts["outputs"]


def of_others(folder: Path, variables: Mapping[str, Any]) -> bool:
    """Whether a folder's certificate is of other parameters than these, or cannot be read."""
    try:
        return bool(read(folder)[0].tensors != digests(variables))
    except InputError:
        return True


def digests(variables: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each leaf: of its dtype, its shape and its numbers in C order."""
    found = {}
    for path, leaf in paths(variables).items():
        array = np.ascontiguousarray(leaf)
        digest = hashlib.sha256(f"{array.dtype}{np.shape(leaf)}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
        found[path] = digest.hexdigest()
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
