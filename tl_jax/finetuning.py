"""Fine-tuning, composed: data, model, method and task become a run. Every part is public and works alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tl_jax import preparation
from tl_jax.assembly import stored_leaves, with_stored
from tl_jax.errors import InputError
from tl_jax.run import Run
from tl_jax.run_folder import RunFolder
from tl_jax.sweeping import settled
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.events import Events
from tl_jax.training.fitting import fit
from tl_jax.training.interrupt import Interrupt
from tl_jax.training.plan_table import plan_table
from tl_jax.training.prefixes import Prefixes


def finetune(
    model: Any = None,
    data: Any = None,
    *,
    task: Any = None,
    shardings: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Any:
    """Fine-tune `model` on `data` and return the `Run` (with `dry_run` the plan's table, and nothing is written).

        run = tl.finetune("sentence-transformers/all-MiniLM-L6-v2", "tickets.csv", method="lora")
        run = tl.finetune(plan, dataset, task=task, epochs=3, seed=0, out="runs/tickets")

    Args:
        model: a folder, a hub name, a pair `(model, variables)`, a `Plan`, or an `Experiment` that says it all.
        data: a file or folder, a list of pairs or dicts, a `Dataset`; `eval_data=` likewise.
        task: a task's name, or a task object with your own labels, loss or metrics.
        shardings: rules `(pattern, PartitionSpec)` for what lies where on `mesh`; see `tl_jax.parallel.DEFAULT`.
        resume: go on from the last good checkpoint in `out`; a finished run is returned as it is.
        overwrite: replace the run in `out`.
        quiet: print nothing.
        settings: the fields of `Experiment`; `method` may be an object of `tl_jax.methods`.

    Raises `InputError` for what cannot be used, before anything is written; `Diverged` when the loss stops being
    finite; `Interrupted`, after saving, when Ctrl-C or SIGTERM asks it to stop while it trains.
    """
    task, settings = preparation.named_task(task, settings)
    request = preparation.request(model, data, settings)
    experiment = request.experiment
    place = RunFolder(experiment.out or "")
    if not dry_run:
        place.check_free(resume=resume, overwrite=overwrite)
    going_on = resume and place.begun
    with Events(quiet=quiet) as events:
        if going_on and request.model is None:
            request = replace(request, source=place.source_for(experiment.model))
        job = preparation.prepare(request, task, events.message, shardings)
        if note := preparation.idle_settings(job.experiment, job.assembly.plan):
            events.message(f"note: {note}")
        if going_on:
            place.check_same(experiment, job.manifest)
            if changed := place.machine_changes(job.manifest):
                events.message(
                    f"note: this is another kind of machine ({changed}), so the bits will differ from here on"
                )
        if dry_run:
            return _table(job)
        with Interrupt() as interrupt:

            def stop_asked() -> bool:
                return interrupt.requested

            known = place.method() if going_on else None
            began = time.monotonic()
            job, prefixes = _settled(job, events.message, stop_asked, known)
            settling = time.monotonic() - began
            events.message(_table(job))
            checkpoints = Checkpoints(place.checkpoints, say=events.message)
            if going_on and place.finished and (run := _opened(place, job, checkpoints, quiet)):
                events.message(f"{place.path} is finished already")
                return run
            if not going_on:
                place.begin(experiment, job.manifest)
            elif place.finished:  # its best checkpoint was damaged: until that is made anew, the run is not finished
                place.summary_file.unlink()
            events.log_to(place.metrics_file)
            record = fit(
                job.assembly.plan,
                job.assembly.model,
                job.assembly.task,
                job.recipe,
                job.train,
                job.validation,
                prefixes,
                stored=lambda variables: stored_leaves(job.assembly, variables),
                checkpoints=checkpoints,
                events=events,
                stop_asked=stop_asked,
                where=job.where,
                placement=job.placement,
            )
            record["seconds"] += settling
        run = _opened(place, job, checkpoints, quiet)
        if run is None:
            raise InputError(
                f"{place.path}: the best checkpoint was damaged while the run went on; --resume makes it anew"
            )
        place.finish(_summary(job, run, prefixes, record))
        return run


def _settled(
    job: preparation.Job, say: Callable[[str], object], stop_asked: Callable[[], bool], known: str | None
) -> tuple[preparation.Job, Prefixes]:
    """The job with a method that leaves nothing open, which its manifest names, and what is frozen."""
    seed, examples = job.experiment.seed, job.train.examples
    assembly, prefixes = settled(job, job.assembly, examples, say, stop_asked, seed=seed, known=known)
    manifest = {**job.manifest, "method": str(assembly.plan.method)}
    return replace(job, assembly=assembly, manifest=manifest), prefixes


def _table(job: preparation.Job) -> str:
    made, keep = job.assembly, not job.experiment.no_cache
    return plan_table(made.plan, made.model, made.task, job.recipe, job.train, keep=keep)


def _opened(place: RunFolder, job: preparation.Job, checkpoints: Checkpoints, quiet: bool) -> Run | None:
    """The run at its best checkpoint, from what is in memory already; None if that checkpoint is damaged."""
    best = checkpoints.restore_best()
    if best is None:
        return None
    variables = with_stored(job.assembly, best.arrays)
    say = _silent if quiet else print
    return Run(place, job.experiment, job.manifest, job.assembly, variables, say, job.placement)


def _silent(text: str) -> None:
    """Where nobody listens."""


def _summary(job: preparation.Job, run: Run, prefixes: Prefixes, record: dict[str, Any]) -> dict[str, Any]:
    """The figures a run ends with, on the test data if there are any; else those the best step has on validation."""
    scored = {}
    if job.test is not None:
        examples, start = prefixes.pooled(job.assembly.plan.cut, job.test)
        scored["test"] = run.score(examples, start=start)
    if "validation" in record:
        scored["validation"] = record["validation"]
    on = next(iter(scored), None)
    return {"scored_on": on, "metrics": scored[on] if on else {}, **record, **scored}
