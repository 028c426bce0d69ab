"""`verify`: a model's outputs beside those of its reference, or beside those kept from an earlier time."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax import __version__
from tl_jax.errors import InputError, did_you_mean
from tl_jax.inspection import not_finite
from tl_jax.model import Model
from tl_jax.pretrained import fingerprint, load
from tl_jax.rules import map_paths, paths
from tl_jax.run_folder import RunFolder
from tl_jax.verification import certificate as certificates
from tl_jax.verification import inputs, reference
from tl_jax.verification.certificate import Certificate
from tl_jax.verification.verdict import TOLERANCE, Checked, Verification

AGAINST = ("reference", "golden", "structure")


def verify(
    name_or_folder: str | Path,
    *,
    against: str | None = None,
    pooling: str = "auto",
    revision: str | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Verification:
    """Check that a pretrained model is read and computed as it should be, stage by stage, in float32.

    Against "reference": transformers computes the same inputs from the same folder, in a process of its own. Each
    stage's output may differ by 1e-5 of its largest number, or by twice what transformers' float32 differs from its
    float64. A certificate is put into the model's folder, or into `out`, with the outputs. Against "golden": with the
    outputs and the parameters of a certificate that was written before. Against "structure": every tensor has its place
    and shape, and its numbers are finite. By default it is the first that can be done here.

    Raises `InputError` for a model that cannot be loaded, and for an `against` that cannot be done; a model that is not
    as it should be is no error but told by `passed` and `failure`.
    """
    if against not in (None, *AGAINST):
        raise InputError(f"unknown {against!r} to verify against{did_you_mean(str(against), AGAINST)}")
    if RunFolder(name_or_folder).is_run:
        raise InputError(f"{name_or_folder} is a run: tl-jax export writes its model, and that can be verified")
    model, variables = load(name_or_folder, pooling=pooling, revision=revision)
    place = model.info.source.folder if out is None else Path(out).expanduser()
    chosen = against or _best(place)
    if chosen == "reference":
        return _with_reference(model, variables, place, say)
    if chosen == "golden":
        return _with_golden(model, variables, place)
    stages = _checked(model, variables, {}, {})
    leaves = paths(variables)
    said = f"structure only: {len(leaves)} tensors are where {model.info.family} has them, in shape"
    if against is None:
        said += f"; {' and '.join(reference.missing())} would be needed to compare outputs, or a certificate in {place}"
    return Verification("structure", said, stages)


def _best(place: Path) -> str:
    if not reference.missing():
        return "reference"
    return "golden" if certificates.exists(place) else "structure"


def _with_reference(
    model: Model, variables: Mapping[str, Any], place: Path, say: Callable[[str], None]
) -> Verification:
    if lacking := reference.missing():
        raise InputError(f"the reference is not installed here: pip install {' '.join(lacking)}")
    _check_writable(place)
    batch = inputs.batch(model)
    say("transformers computes the same, in a process of its own")
    single = reference.compute(model, variables, batch, "float32")
    ours = _outputs(model, variables, batch)
    bounds: dict[str, float] = {}
    errors = _errors(ours, single.outputs, batch["mask"])
    if not errors:
        raise InputError(f"none of the stages {', '.join(model.names)} is found in {single.kind} of transformers")
    if any(error > TOLERANCE for error in errors.values()):
        say("and once more in float64, for how exact its float32 is")
        exact = reference.compute(model, variables, batch, "float64")
        theirs = _errors(single.outputs, exact.outputs, batch["mask"])
        bounds = {stage: max(TOLERANCE, 2 * error) for stage, error in theirs.items()}
    stages = _checked(model, variables, errors, bounds)
    notes: tuple[str, ...] = ()
    if isinstance(single.ids, str):
        notes = (f"the tokenizer is not compared: transformers does not read it ({single.ids})",)
    elif single.ids:
        stages = (_tokenizer(inputs.ids(batch)[: len(single.ids)], single.ids, "in transformers"), *stages)
    said = ", ".join(f"{name} {single.versions[name]}" for name in reference.PACKAGES)
    done = Verification("reference", f"compared with {single.kind} of transformers ({said})", stages, notes=notes)
    if not done.passed:
        return done
    own = {"tl_jax": __version__, "python": platform.python_version()}
    made = Certificate(
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        reference=single.kind,
        versions={**own, **{name: version(name) for name in ("jax", "numpy")}, **single.versions},
        pooling=str(model.info.pooling),
        stages={s.name: {"writes": s.writes, "error": s.error, "bound": s.bound} for s in stages},
        files=fingerprint(model.info.source),
        tensors=certificates.digests(variables),
    )
    return replace(done, certificate=certificates.write(place, made, batch, single.outputs))


def _with_golden(model: Model, variables: Mapping[str, Any], place: Path) -> Verification:
    if not certificates.exists(place):
        raise InputError(
            f"{place} holds no certificate ({certificates.FILE}): verify the model where torch and transformers are"
        )
    before, batch, outputs = certificates.read(place)
    if before.pooling != model.info.pooling:
        raise InputError(f"the certificate in {place} is of --pooling {before.pooling}, not {model.info.pooling}")
    bounds = {stage: float(entry["bound"]) for stage, entry in before.stages.items()}
    errors = _errors(_outputs(model, variables, batch), outputs, batch["mask"])
    now = certificates.digests(variables)
    changed = [path for path, digest in now.items() if before.tensors.get(path) != digest]
    stages = _checked(model, variables, errors, bounds, changed)
    if model.info.processor is not None:
        stages = (_tokenizer(inputs.ids(inputs.batch(model)), inputs.ids(batch), "at the certificate"), *stages)
    files = fingerprint(model.info.source)
    others = [name for name in sorted({*before.files, *files}) if before.files.get(name) != files.get(name)]
    notes = (f"not the files of the certificate: {', '.join(others)}",) if others else ()
    said = f"compared with the outputs that {before.reference} of transformers gave on {before.made}"
    return Verification("golden", said, stages, notes=notes)


def _tokenizer(ours: list[list[int]], theirs: list[list[int]], where: str) -> Checked:
    """Whether texts become the same tokens."""
    differing = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), None)
    if differing is None and len(ours) == len(theirs):
        return Checked("tokenizer", "tokens", 0.0, 0.0)
    mine, other = differing or ([], [])
    return Checked("tokenizer", "tokens", faults=(f"a text becomes {mine[:8]}, and {other[:8]} {where}",))


def _check_writable(place: Path) -> None:
    """Raise `InputError`, before anything is computed, where a certificate cannot be put."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError("it may not be written")
    except OSError as e:
        raise InputError(
            f"no certificate can be put into {place} ({e.strerror or e}): --out gives it another folder"
        ) from None


def _outputs(model: Model, variables: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each stage writes for `batch`, in float32."""
    wide = map_paths(lambda _, leaf: jnp.asarray(leaf, jnp.float32), variables)
    written, state = {}, dict(batch)
    with jax.default_matmul_precision("highest"):
        for stage, after in zip(model.stages, (*model.names[1:], None), strict=True):
            state = model.apply(wide, state, start=stage.name, stop=after)
            written[stage.name] = np.asarray(state[stage.writes[0]])
    return written


def _errors(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, float]:
    """max|a - b| / max|b| of each stage that both have, where there is no padding."""
    found = {}
    for stage in (stage for stage in ours if stage in theirs):
        a, b = (np.asarray(of[stage], np.float64) for of in (ours, theirs))
        if a.shape != b.shape:
            found[stage] = np.inf
            continue
        if a.shape[:2] == mask.shape:
            a, b = a[mask], b[mask]
        error = float(np.abs(a - b).max())
        found[stage] = error and error / float(np.abs(b).max())
    return found


def _checked(
    model: Model,
    variables: Mapping[str, Any],
    errors: Mapping[str, float],
    bounds: Mapping[str, float],
    changed: list[str] | None = None,
) -> tuple[Checked, ...]:
    """Every stage with its figures, and what is wrong with the parameters that it owns."""
    faults: dict[int, list[str]] = {}
    for path, leaf in paths(variables).items():
        if count := not_finite(leaf):
            faults.setdefault(model.depth(path), []).append(f"{path} holds {count:,} numbers that are NaN or infinite")
    for path in changed or ():
        faults.setdefault(model.depth(path), []).append(f"{path} has changed since the certificate")
    return tuple(
        Checked(
            stage.name,
            stage.writes[0],
            errors.get(stage.name),
            bounds.get(stage.name, TOLERANCE),
            tuple(faults.get(depth, ())),
        )
        for depth, stage in enumerate(model.stages)
    )
