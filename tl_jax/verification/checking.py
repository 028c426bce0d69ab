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
from tl_jax.pretrained.sources import changes
from tl_jax.rules import map_paths, paths
from tl_jax.run_folder import RunFolder
from tl_jax.verification import certificate as certificates
from tl_jax.verification import reference
from tl_jax.verification.certificate import Certificate
from tl_jax.verification.kinds import kind_of
from tl_jax.verification.verdict import TOLERANCE, Checked, Verification, difference

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
    chosen = against or _best(model, place)
    if chosen == "reference":
        return _with_reference(model, variables, place, say)
    if chosen == "golden":
        return _with_golden(model, variables, place)
    stages = _checked(model, variables, {}, {})
    leaves = paths(variables)
    said = f"structure only: {len(leaves)} tensors are where {model.info.family} has them, in shape"
    if against is None:
        said += f"; outputs are not compared: {reference.absent(model)}, and {place} holds no certificate"
    return Verification("structure", said, stages)


def _best(model: Model, place: Path) -> str:
    if not reference.absent(model):
        return "reference"
    return "golden" if certificates.exists(place) else "structure"


def _with_reference(
    model: Model, variables: Mapping[str, Any], place: Path, say: Callable[[str], None]
) -> Verification:
    if why := reference.absent(model):
        raise InputError(f"there is no reference for it here: {why}")
    _check_writable(place)
    kind = kind_of(model)
    batch = kind.batch(model)
    say("transformers computes the same, in a process of its own")
    single = reference.compute(model, variables, batch, "float32")
    ours = _outputs(model, variables, batch)
    bounds: dict[str, float] = {}
    errors = _errors(ours, single.outputs, batch.get("mask"))
    if not errors:
        raise InputError(f"none of the stages {', '.join(model.names)} is found in {single.kind} of transformers")
    if any(error > TOLERANCE for error in errors.values()):
        say("and once more in float64, for how exact its float32 is")
        exact = reference.compute(model, variables, batch, "float64")
        theirs = _errors(single.outputs, exact.outputs, batch.get("mask"))
        bounds = {stage: max(TOLERANCE, 2 * error) for stage, error in theirs.items()}
    stages = _checked(model, variables, errors, bounds)
    notes: tuple[str, ...] = ()
    if isinstance(single.prepared, str):
        notes = (f"the {kind.PROCESSOR} is not compared: transformers does not read it ({single.prepared})",)
    elif single.prepared:
        same = kind.prepared(batch)[: len(single.prepared)]
        stages = (kind.compared(same, single.prepared, "in transformers"), *stages)
    said = ", ".join(f"{name} {single.versions[name]}" for name in reference.PACKAGES)
    done = Verification("reference", f"compared with {single.kind} of transformers ({said})", stages, notes=notes)
    if not done.passed:
        return done
    if certificates.exists(place) and certificates.of_others(place, variables):
        done = replace(done, notes=(*done.notes, f"the certificate in {place} was of other weights, and is replaced"))
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
    errors = _errors(_outputs(model, variables, batch), outputs, batch.get("mask"))
    now = certificates.digests(variables)
    changed = [path for path, digest in now.items() if before.tensors.get(path) != digest]
    stages = _checked(model, variables, errors, bounds, changed)
    if model.info.processor is not None:
        kind = kind_of(model)
        anew = kind.prepared(kind.batch(model))
        stages = (kind.compared(anew, kind.prepared(batch), "at the certificate"), *stages)
    found = changes(before.files, fingerprint(model.info.source))
    told = ", ".join(f"{name} {what}" for name, what in found.items())
    notes = (f"other files than at the certificate: {told}",) if told else ()
    said = f"compared with the outputs that {before.reference} of transformers gave on {before.made}"
    return Verification("golden", said, stages, notes=notes)


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


def _errors(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], mask: np.ndarray | None
) -> dict[str, float]:
    """The `difference` of each stage that both have, where there is no padding."""

    def real(array: np.ndarray) -> np.ndarray:
        by_token = mask is not None and array.ndim > mask.ndim and array.shape[: mask.ndim] == mask.shape
        return array[mask] if by_token else array

    return {stage: difference(real(ours[stage]), real(theirs[stage])) for stage in ours if stage in theirs}


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
