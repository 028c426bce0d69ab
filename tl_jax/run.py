"""A finished fine-tune: ask it, score it, take it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tl_jax import data as data_room
from tl_jax import pretrained
from tl_jax.assembly import Assembly, make_plan, with_stored
from tl_jax.data.opening import NAMES
from tl_jax.errors import InputError
from tl_jax.experiment import Experiment, one_of
from tl_jax.generation import Sampling, generate
from tl_jax.manifest import read_json
from tl_jax.methods import Plan, merge, parse
from tl_jax.model import Model
from tl_jax.model_card import model_card
from tl_jax.models.families import has_class, reads_images
from tl_jax.parallel import ANYWHERE, Placement, place_again
from tl_jax.preparation import checked_pair, digest, divided
from tl_jax.run_folder import RunFolder, existing_run
from tl_jax.sweeping import leaves_open, with_method
from tl_jax.tasks import is_labelled, task_class
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.evaluation import answer, evaluate
from tl_jax.training.reading import ImageReading, Reading, reading
from tl_jax.training.state import variables_in
from tl_jax.training.step import policy_of

Say = Callable[[str], object]


def open_run(folder: str | Path, *, model: Any = None, task: Any = None, say: Say = print) -> Run:
    """A run from its folder.

    Args:
        model: where its pre-trained weights lie now, if they moved; for a run of a model in memory that model again,
            as `(model, variables)`, and for one of a plan that plan again.
        task: a task object with the loss and metrics of your own that the run had; a folder does not hold functions.
        say: takes what there is to tell: a damaged checkpoint, texts that were cut.

    Raises `InputError` for a folder that holds no run or one that has not finished, and for weights that are gone or
    changed since.
    """
    place = existing_run(folder)
    experiment = Experiment.load(place.path)
    if not place.finished:
        raise InputError(f"the run {folder} has not finished: tl-jax finetune --resume --out {folder}")
    manifest = read_json(place.manifest_file)
    labels = tuple(manifest["labels"])
    if task is None and manifest["loss"]:
        say(f"the run was trained with a loss of its own, {manifest['loss']}; here the loss is the task's")
    task = (task or task_class(manifest["task"])()).with_labels(labels)
    if isinstance(model, Plan):
        plan, loaded = _same_plan(model, manifest, place), None
    else:
        pair = _loaded(model, manifest, place, experiment)
        plan = make_plan(*pair, task, place.method() or experiment.method or "", seed=experiment.seed)
        loaded = pair[1] if manifest["model"]["files"] else None
    assembly = Assembly.of(plan, task, precision=experiment.precision, loaded=loaded)
    leaves = _leaves(Checkpoints(place.checkpoints, say=say), assembly, folder, say)
    placement = place_again(experiment.mesh)
    return Run(place, experiment, manifest, assembly, with_stored(assembly, leaves), say, placement)


def _loaded(
    given: Any, manifest: Mapping[str, Any], place: RunFolder, experiment: Experiment
) -> tuple[Model, Mapping[str, Any]]:
    """What the run was made from: the model in memory that is given, or read from its files."""
    if not isinstance(given, tuple):
        pooling, size = manifest["pooling"], experiment.image_size
        return pretrained.load(place.source(given), pooling=pooling, image_size=size)
    model, variables = checked_pair(given)
    _check_same(variables, manifest, place)
    return model, variables


def _same_plan(plan: Plan, manifest: Mapping[str, Any], place: RunFolder) -> Plan:
    """The plan that is given, if it is the one the run was made from."""
    found, still_open = str(manifest.get("method")), leaves_open(plan.method)
    if not still_open and str(plan.method) != found:
        raise InputError(f"the run {place.path} is one of {found}, and this plan one of {plan.method}")
    _check_same(plan.variables, manifest, place)
    return with_method(plan, parse(found)) if still_open else plan


def _check_same(variables: Mapping[str, Any], manifest: Mapping[str, Any], place: RunFolder) -> None:
    if digest(variables) != manifest["model"]["variables"]:
        raise InputError(f"these are not the variables the run {place.path} was made from")


def _leaves(checkpoints: Checkpoints, assembly: Assembly, folder: str | Path, say: Say) -> Mapping[str, Any]:
    """The leaves of the best checkpoint; if that is damaged those of the last step, where they are all there is."""
    best = checkpoints.restore_best()
    if best is not None:
        return best.arrays
    again = f"tl-jax finetune --resume --out {folder} makes it again"
    last = checkpoints.restore()
    if last is not None:
        found = variables_in(last.arrays)
        if found.keys() >= assembly.stored:
            say(f"without the best checkpoint this is the model after the last step, {last.step}; {again}")
            return {path: found[path] for path in assembly.stored}
    raise InputError(f"the run {folder} has no good checkpoint left; {again}")


class Run:
    """A run, with its model at the best checkpoint.

    `model` and `variables` are what `model.apply` takes; `metrics` the figures it ended with.
    """

    def __init__(
        self,
        place: RunFolder,
        experiment: Experiment,
        manifest: Mapping[str, Any],
        assembly: Assembly,
        variables: Mapping[str, Any],
        say: Say = print,
        placement: Placement = ANYWHERE,
    ) -> None:
        self.folder = place.path
        self.experiment = experiment
        self.manifest = dict(manifest)
        self.task = assembly.task
        self.plan = assembly.plan
        self.model: Model = assembly.model
        self.variables = dict(variables)
        self._place = place
        self._say = say
        self._placement = placement

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.experiment.method} on {self.experiment.data})"

    @cached_property
    def _placed(self) -> dict[str, Any]:
        """The variables where a run on a mesh computes with them."""
        return self._placement.variables(self.variables)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """All figures of the run: `metrics`, `scored_on`, `validation`, steps, seconds."""
        summary: dict[str, Any] = read_json(self._place.summary_file)
        return summary

    @property
    def metrics(self) -> dict[str, Any]:
        """Loss, accuracy, macro-F1, per-class figures: on the evaluation data, else on the validation split.

        Of a language model loss (nats a token), perplexity, and the share of tokens that it has likeliest.
        """
        metrics: dict[str, Any] = self.summary["metrics"]
        return metrics

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.manifest["labels"])

    @property
    def role(self) -> str:
        """What it reads, as the column of its data is called: "text" or "image"."""
        return "image" if getattr(self.task, "reads", "tokens") == "image" else "text"

    @property
    def text_column(self) -> str:
        """The column the texts came from at training."""
        return str(self.manifest["columns"]["text"])

    @cached_property
    def _reading(self) -> Reading:
        e = self.experiment
        how = {"max_length": self.manifest["max_length"], "corrupt": e.corrupt, "keep": not e.no_cache}
        return reading(self.task, self.model.processor, name=e.model, **how)

    def predict(
        self, inputs: Sequence[Any], *, batch_size: int | None = None, corrupt: str | None = None, **how: Any
    ) -> list[dict[str, Any]]:
        """For each text `{"text", "label", "probabilities": {label: p}}`, in the order given.

        Of images (paths, images of Pillow, or pixels uint8 `[H, W, C]`) it is `{"image", "label", "probabilities"}`;
        those that cannot be read are refused, or left out where `corrupt` is "skip" (default: as the run was trained).
        Of a language model it is `{"text", "continuation"}`, the likeliest unless `how`, which are choices of
        `generate`, says otherwise.
        """
        if isinstance(inputs, str | Path):
            raise InputError(f"predict takes a list of {self.role}s, not one {self.role}")
        if not len(inputs):
            return []
        if not is_labelled(self.task):
            continued = self.generate(inputs, batch_size=batch_size, **how)
            return [{"text": text, "continuation": more} for text, more in zip(inputs, continued, strict=True)]
        if how:
            raise InputError(f"{next(iter(how))} is for language models, and this run tells labels of {self.role}s")
        examples = self._lenient(corrupt).asked(inputs, self._say)
        if not len(examples):
            return []  # no image could be read
        batches = self._batches(examples, batch_size, least=True)
        logits = answer(self.model, self.task, self._placed, batches, self.experiment.precision, self._placement)
        named = [self._reading.named(inputs[i]) for i in examples.index]
        return [{self.role: name, **found} for name, found in zip(named, self.task.decode(logits), strict=True)]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
    ) -> list[str]:
        """Continue each prompt by at most `max_new_tokens`, in the order given, until the model ends the text.

        None is 64, or half of what the run's texts may have. A `temperature` of 0 takes the likeliest token each time;
        above, tokens are drawn by `seed` and a prompt's place in the list, which starts at `first`, among the `top_k`
        likeliest (0: all) and those that have the probability `top_p` together. Prompts too long to leave room keep
        their end. Raises `InputError` for a run that is no language model.
        """
        if is_labelled(self.task):
            raise InputError(f"this run tells labels of {self.role}s: ask it with predict")
        if isinstance(prompts, str):
            raise InputError("generate takes a list of texts, not one text")
        processor, longest = self.model.processor, self.manifest["max_length"]
        max_new_tokens = min(64, longest // 2) if max_new_tokens is None else max_new_tokens
        if not 0 < max_new_tokens < longest:
            raise InputError(
                f"max_new_tokens must be from 1 to {longest - 1}, as the run's texts, not {max_new_tokens}"
            )
        ids = [row[-(longest - max_new_tokens) :] for row in processor.ids(prompts)]
        sampling = Sampling(temperature, top_k, top_p)
        stop = () if processor.eos_id is None else (processor.eos_id,)
        if empty := [i for i, row in enumerate(ids) if not len(row)]:
            raise InputError(f"prompt {first + empty[0]} has no tokens to continue")
        rows = batch_size or self.manifest["batch"]["rows"]
        found: list[list[int]] = []
        with policy_of(self.experiment.precision)():
            for at in range(0, len(ids), rows):
                how: dict[str, Any] = {"sampling": sampling, "stop": stop, "seed": seed, "first": first + at}
                found += generate(self.model, self._placed, ids[at : at + rows], max_new_tokens, **how)
        starts = processor.decode(ids)
        texts = processor.decode([[*start, *more] for start, more in zip(ids, found, strict=True)])
        return [text.removeprefix(start) for text, start in zip(texts, starts, strict=True)]

    def evaluate(
        self,
        data: Any = None,
        *,
        split: str | None = None,
        text_column: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        batch_size: int | None = None,
        corrupt: str | None = None,
    ) -> dict[str, Any]:
        """Loss and metrics on labelled data, every example once; without `data` on what the run ended with.

        Columns are those of the run unless named; of examples in memory other columns are inferred. Images that cannot
        be read are refused, or left out where `corrupt` is "skip" (default: as the run was trained). Raises
        `InputError` for missing columns and for labels that training never saw.
        """
        if data is None:
            dataset = self._held_out(split)
        else:
            splits = data_room.open(data)
            dataset = splits[split] if split else data_room.to_score(splits)
        known = self.manifest["columns"]
        guess = self.role == "image" or (data is not None and not isinstance(data, str | Path))
        given = {"text": text_column, "image": image_column, "label": label_column}
        column, label = (
            given[role] or (None if guess and known[role] not in dataset.columns else known[role])
            for role in (self.role, "label")
        )
        infer: Callable[..., data_room.Columns] = data_room.infer_completions
        if is_labelled(self.task):
            infer = data_room.infer_image_columns if self.role == "image" else data_room.infer_columns
        columns = infer(dataset, column, label)
        second = "" if columns.label is None else f", label {columns.label!r}"
        self._say(f"{len(dataset):,} examples of {dataset.source}, {self.role} {columns.input!r}{second}")
        return self.score(self._lenient(corrupt).labelled(dataset, columns, self.labels, self._say), batch_size)

    def score(
        self, examples: data_room.Examples, batch_size: int | None = None, *, start: str | None = None
    ) -> dict[str, Any]:
        """Loss and metrics on examples that are encoded already; with a `start` they have features from there."""
        batches = self._batches(examples, batch_size)
        how = (self.experiment.precision, self._placement, start)
        return evaluate(self.model, self.task, self._placed, batches, *how)

    def export(self, folder: str | Path, *, format: str | None = None, overwrite: bool = False) -> Path:
        """Write the model as a Hugging Face folder, adapters merged, with label names and a card; see `tl_jax.save`."""
        model, variables = merge(self.model, self.variables)
        card = model_card(self.experiment, self.manifest, self.summary, _form(model))
        how: dict[str, Any] = {"labels": self.labels or None, "format": format, "overwrite": overwrite}
        return pretrained.save(folder, model, variables, card=card, **how)

    def _lenient(self, corrupt: str | None) -> Reading:
        """The run's reading, or one that does `corrupt` with images that cannot be read."""
        if corrupt is None:
            return self._reading
        if not isinstance(self._reading, ImageReading):
            raise InputError(f"corrupt={corrupt!r} is for runs on images, and this is one on {self.role}s")
        return replace(self._reading, corrupt=one_of("corrupt", corrupt))

    def _batches(
        self, examples: data_room.Examples, batch_size: int | None, *, least: bool = False
    ) -> data_room.Passes:
        shape = data_room.PassShape(**self.manifest["batch"])
        shape = shape if batch_size is None else replace(shape, rows=batch_size)
        return shape.over(examples, self._reading.pad, least=least)

    def _held_out(self, split: str | None) -> data_room.Dataset:
        e = self.experiment
        if not self.manifest["data"]["reopens"]:
            raise InputError("this run was trained on data in memory: give evaluate the data to score")
        parts = divided(e)
        named = {"train": parts.train, "validation": parts.validation, "test": parts.test}
        name = ("validation" if parts.test is None else "test") if split is None else NAMES.get(split, split)
        chosen = named.get(name)
        if chosen is None:
            there = ", ".join(name for name, part in named.items() if part is not None)
            raise InputError(f"the run has no {split or 'held-out'} data; it has {there}: give --data")
        if chosen.fingerprint != self.manifest["data"]["fingerprints"].get(name):
            raise InputError(
                f"the {name} data of {e.data} changed since the run: give --data with what is to be scored"
            )
        return chosen


def _form(model: Model) -> str:
    """What a folder of the model is to whoever uses it, as its card says it."""
    if not model.info.family:
        return "own"
    if not has_class(model.info.family):
        return "tl_jax"
    images = reads_images(model.info.family)
    return "hf" if images or model.info.pooling in ("pooler", "none") else "sentence-transformers"
