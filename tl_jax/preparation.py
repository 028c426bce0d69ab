"""Everything that comes before the first step: arguments to an experiment, files to examples, names to a plan.

Nothing here writes a file.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tl_jax import __version__, pretrained
from tl_jax import data as data_room
from tl_jax.assembly import Assembly, make_plan
from tl_jax.compilation import keep_compilations
from tl_jax.data.opening import EXTENSIONS, NPZ
from tl_jax.errors import InputError, did_you_mean
from tl_jax.experiment import Experiment
from tl_jax.heap import keep_freed_memory
from tl_jax.manifest import machine_kind
from tl_jax.methods import Plan, parse
from tl_jax.model import Model
from tl_jax.parallel import Placement, place
from tl_jax.pretrained.weights import SUFFIXES
from tl_jax.rules import paths
from tl_jax.stage import check_variables
from tl_jax.tasks import TASKS, is_labelled, task_class
from tl_jax.training.defaults import default_schedule, peak_rate
from tl_jax.training.feature_store import FeatureStore
from tl_jax.training.prefixes import Prefixes
from tl_jax.training.reading import Reading, reading
from tl_jax.training.recipe import Recipe
from tl_jax.trees import add_leaf

Say = Callable[[str], object]
# What says how steps are taken.
_OF_STEPS = (
    *("epochs", "steps", "accumulate", "optimizer", "lr", "schedule", "warmup"),
    *("weight_decay", "clip", "ema", "patience"),
)
# What says how one kind of input is read.
_OF_TEXTS = ("text_column", "max_length")
_OF_IMAGES = ("image_column", "augment", "corrupt")
_TEXTS, _IMAGES = "text_classification", "image_classification"  # tasks, by what a model reads
# Files: a folder's name may have a dot too, as in Qwen2.5-0.5B.
_KINDS = (*EXTENSIONS, NPZ, *SUFFIXES)
_IN_MEMORY = "in memory"  # what an object is called in an experiment


@dataclass(frozen=True)
class Request:
    """An experiment and the objects that were given in place of names (None where a name was)."""

    experiment: Experiment
    model: Any = None
    data: Any = None
    eval_data: Any = None
    method: Any = None
    note: str = ""  # on what was chosen for want of a word
    source: pretrained.Source | None = None  # where the weights of a run that goes on lie


@dataclass(frozen=True, eq=False)
class Job:
    """A fine-tune that is ready to run."""

    experiment: Experiment
    assembly: Assembly
    recipe: Recipe
    train: data_room.TrainBatches
    validation: data_room.Examples | None
    test: data_room.Examples | None
    where: Callable[[int], str]
    placement: Placement
    manifest: dict[str, Any]

    @property
    def passing(self) -> data_room.PassShape:
        """How passes over whole sets are cut."""
        return data_room.PassShape.of(self.train)

    def prefixes(self, assembly: Assembly, say: Say, stop_asked: Callable[[], bool]) -> Prefixes:
        """What is frozen of a model, and where its features are kept."""
        e = self.experiment
        return Prefixes(
            assembly.model,
            assembly.plan.variables,
            self.passing,
            self.train.pad,
            e.precision,
            self.placement,
            FeatureStore(None, say) if e.no_cache else FeatureStore.default(say),
            self.manifest["machine"],
            not e.no_cache,
            say,
            stop_asked,
        )


def named_task(task: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The task, if it is an object (None where it is a name), and the settings with its name among them."""
    if isinstance(task, str):
        return None, {**settings, "task": task}
    name = getattr(task, "name", None)
    return task, {**({"task": name} if name in TASKS and name != _TEXTS else {}), **settings}  # texts need no word


def request(model: Any, data: Any, settings: Mapping[str, Any], what: str = "finetune") -> Request:
    """What `finetune` (or `what` else) was asked for; objects get a name in the experiment, so that it stays a value.

    Raises `InputError` for settings that do not exist and for a missing model or data.
    """
    keep_freed_memory()
    settings = dict(settings)
    known = [f.name for f in dataclasses.fields(Experiment)]
    for name in settings:
        if name not in known:
            raise InputError(f"{what} has no setting {name!r}{did_you_mean(name, known)}")
    objects: dict[str, Any] = {}
    base = Experiment()
    if isinstance(model, Experiment):
        base, model = model, None
    for name, value in (("model", model), ("data", data), ("eval_data", settings.get("eval_data"))):
        if isinstance(value, str | Path):
            settings[name] = str(value)
        elif value is not None:
            if name == "model" and not isinstance(value, Plan):
                checked_pair(value)
            objects[name] = value
            settings[name] = _name(name, value)
    if not isinstance(given := settings.get("method"), str | None):
        objects["method"] = given
    if isinstance(model, Plan):
        if "method" in settings:
            raise InputError("a plan has its method already: give method=, or a plan")
        settings["method"] = objects["method"] = model.method
    method, note = settings.get("method") or base.method, ""
    if method is None:
        method, note = _default_method(objects.get("model"), settings.get("task") or base.task)
    settings["method"] = str(parse(method))
    if settings.get("task", base.task) is None and _images(objects.get("model"), settings.get("model", base.model)):
        settings["task"] = _IMAGES
    if isinstance(settings.get("out"), Path):
        settings["out"] = str(settings["out"])
    experiment = dataclasses.replace(base, **settings)
    for name in ("model", "data", "eval_data"):
        if name not in objects and str(getattr(experiment, name)).startswith(_IN_MEMORY):
            raise InputError(f"the {name} of this experiment was an object in memory: only Python can give it again")
    missing = [name for name in ("model", "data") if getattr(experiment, name) is None]
    if missing:
        raise InputError(f"{' and '.join(missing)} missing: {what} needs a pre-trained model and labelled data")
    if "model" in objects and experiment.image_size is not None:
        raise InputError("the model is in memory: load it for another size of image, tl.load(…, image_size=)")
    if not experiment.no_cache:
        keep_compilations()
    if experiment.out is None:
        kind = settings["method"].partition(":")[0]
        experiment = dataclasses.replace(experiment, out=f"runs/{short_name(experiment.data or '')}-{kind}")
    return Request(experiment, note=note, **objects)


def _images(given: Any, name: str | None) -> bool:
    """Whether a model starts from images; where no task is named that is the task, else texts are."""
    if given is not None:
        return "image" in (given.model if isinstance(given, Plan) else given[0]).inputs
    return name is not None and pretrained.reads_images(name)


def _default_method(model: Any, task: str | None) -> tuple[str, str]:
    """The method where none is named, and why."""
    if task == "causal_lm":
        return "full", "method full (the default for texts): a language model's head is trained already"
    if model is not None and "head" not in model[0].names and "logits" in model[0].stages[-1].writes:
        return "full", "method full: this network writes logits itself, so there is no head to solve first"
    return "lp_ft", "method lp_ft (the default): the head is solved on frozen features, then everything trains from it"


def prepare(asked: Request, task: Any, say: Say, shardings: Any = None) -> Job:
    """Read the data and the weights, attach the head, make the plan, encode. `say` hears what was chosen and why.

    `shardings` are rules for what lies where on the experiment's mesh; None are the default ones.
    """
    e = asked.experiment
    if asked.model is None and asked.source is None:
        pretrained.check_name(e.model or "")  # a name that is wrong is told before data that do not fit it
    division = divided(e, asked.data, asked.eval_data)
    _describe(division, say)
    if asked.note:
        say(asked.note)
    task = task_of(asked, task)
    task = task if task.labels else task.with_labels(division.labels)
    plan_given = asked.model if isinstance(asked.model, Plan) else None
    if plan_given is not None:
        assembly = Assembly.of(plan_given, task, precision=e.precision, loaded=None)
    else:
        loaded, variables = asked.model or load_for(asked, task)
        method = asked.method or e.method
        assert method is not None  # `request` chose one
        plan = make_plan(loaded, variables, task, method, seed=e.seed)
        assembly = Assembly.of(plan, task, precision=e.precision, loaded=variables if asked.model is None else None)
    model = assembly.plan.model
    how: dict[str, Any] = {"max_length": e.max_length, "corrupt": e.corrupt, "keep": not e.no_cache}
    read = reading(task, model.processor, name=e.model, **how)
    say(_describe_model(model, assembly, read))
    if note := unread_settings(e, task):
        say(f"note: {note}")

    def encoded(dataset: data_room.Dataset | None, name: str) -> data_room.Examples | None:
        return None if dataset is None else read.labelled(dataset, division.columns, task.labels, say, name)

    train = encoded(division.train, "training")
    assert train is not None
    recipe = recipe_of(e, assembly.plan)
    rows = recipe.size(train) // recipe.accumulate
    placement = place(e.mesh, rows=rows, parts=recipe.accumulate, rules=shardings)
    batches = recipe.batches(train, read.pad, packs=model.packs, divisor=placement.row_parts)
    if placement.mesh is not None:
        say(placement.described(assembly.plan.variables, batches.rows))
    check_settings(assembly.plan, recipe, task, batches)
    return Job(
        e,
        assembly,
        recipe,
        batches,
        encoded(division.validation, "validation"),
        encoded(division.test, "evaluation"),
        partial(_where, division.train, train),
        placement,
        _manifest(asked, assembly, division, recipe, batches, read, placement),
    )


def task_of(asked: Request, task: Any) -> Any:
    """The task that was given, or else the one that the experiment names."""
    return task or task_class(asked.experiment.task or _TEXTS)()


def _where(dataset: data_room.Dataset, examples: data_room.Examples, index: int) -> str:
    """Where the example of that index comes from, in words."""
    return dataset.where(examples.place(index))


def load_for(asked: Request, task: Any) -> tuple[Model, Any]:
    """The model and variables that are asked for by name, as the task (None: the experiment's) wants them."""
    e, task = asked.experiment, task_of(asked, task)
    pooling = getattr(task, "pooling", "auto") if e.pooling == "auto" else e.pooling
    return pretrained.load(asked.source or e.model or "", pooling=pooling, image_size=e.image_size)


def check_settings(plan: Plan, recipe: Recipe, task: Any, batches: data_room.TrainBatches) -> None:
    """Raise `InputError` for what does not go together, before a step is made."""
    if plan.solver is not None:
        seen = set(batches.examples.targets.tolist())
        if empty := [label for i, label in enumerate(task.labels) if i not in seen]:
            raise InputError(
                f"{plan.method.name} solves logistic regression, which needs an example of every class; the training "
                f"data have none of {', '.join(map(repr, empty[:5]))}{', …' if len(empty) > 5 else ''}"
            )
    if plan.stepped:
        recipe.rates(recipe.total(batches.steps_per_epoch))
    elif task.loss is not None:
        raise InputError(
            f"{plan.method.name} solves logistic regression and cannot use your own loss; "
            "last_layers:k=0 trains the head alone by gradient, with any loss"
        )


def idle_settings(e: Experiment, plan: Plan) -> str:
    """A line on the settings that were given and change nothing, because the method takes no steps; else ""."""
    if plan.stepped:
        return ""
    usual = Experiment()
    given = [name for name in _OF_STEPS if getattr(e, name) != getattr(usual, name)]
    return f"{plan.method.name} is solved and takes no steps: {', '.join(given)} change nothing" if given else ""


def unread_settings(e: Experiment, task: Any) -> str:
    """A line on the settings that were given and are for models that read something else; else ""."""
    usual, images = Experiment(), getattr(task, "reads", "tokens") == "image"
    given = [name for name in (_OF_TEXTS if images else _OF_IMAGES) if getattr(e, name) != getattr(usual, name)]
    return f"the model reads {'images' if images else 'texts'}: {', '.join(given)} change nothing" if given else ""


def recipe_of(e: Experiment, plan: Plan) -> Recipe:
    """The numbers of an experiment, with what its method does by itself where it says nothing."""
    parameters = sum(leaf.size for leaf in paths(plan.variables["params"]).values())
    return Recipe(
        rate=e.lr if e.lr is not None else peak_rate(plan.method.name, parameters, e.optimizer),
        epochs=e.epochs,
        steps=e.steps,
        batch_size=e.batch_size,
        accumulate=e.accumulate,
        optimizer=e.optimizer,
        schedule=e.schedule or default_schedule(plan.method.name),
        warmup=e.warmup,
        weight_decay=0.0 if e.optimizer == "adam" else e.weight_decay,
        clip=e.clip,
        ema=e.ema,
        patience=e.patience,
        precision=e.precision,
        seed=e.seed,
        augment=e.augment,
    )


def divided(e: Experiment, data: Any = None, eval_data: Any = None) -> data_room.Division:
    """The data of an experiment, divided as it says; objects, where there are any, in place of its names."""
    task = task_class(e.task or _TEXTS)
    data = e.data if data is None else data
    eval_data = e.eval_data if eval_data is None else eval_data
    return data_room.divide(
        data_room.open(data),
        None if eval_data is None else data_room.open(eval_data),
        split=e.split,
        text_column=e.text_column,
        label_column=e.label_column,
        shots=e.shots,
        fraction=e.fraction,
        seed=e.seed,
        image_column=e.image_column,
        images=task.reads == "image",
        labelled=is_labelled(task),
    )


def _manifest(
    asked: Request,
    assembly: Assembly,
    division: data_room.Division,
    recipe: Recipe,
    batches: data_room.TrainBatches,
    read: Reading,
    placement: Placement,
) -> dict[str, Any]:
    task, info = assembly.task, assembly.plan.model.info
    source = info.source
    given = asked.model.variables if isinstance(asked.model, Plan) else asked.model and asked.model[1]
    parts = {"train": division.train, "validation": division.validation, "test": division.test}
    return {
        "tl_jax": __version__,
        "machine": {**machine_kind(), **placement.facts(), "feature_cache": not asked.experiment.no_cache},
        "recipe": {**asdict(recipe), "steps": recipe.total(batches.steps_per_epoch)},
        "task": task.name,
        "labels": list(task.labels),
        "columns": {division.columns.role: division.columns.input, "label": division.columns.label},
        "max_length": getattr(read, "max_length", None),
        "batch": asdict(data_room.PassShape.of(batches)),
        "pooling": info.pooling,
        "loss": None if task.loss is None else getattr(task.loss, "__qualname__", type(task.loss).__qualname__),
        "model": {
            "source": None if source is None else source.name,
            "folder": None if source is None else str(source.place),
            "revision": None if source is None else source.revision,
            "files": pretrained.fingerprint(source) if given is None else {},
            "variables": None if given is None else digest(given),
        },
        "data": {
            "reopens": asked.data is None and asked.eval_data is None,
            "examples": {name: len(part) for name, part in parts.items() if part is not None},
            "fingerprints": {name: part.fingerprint for name, part in parts.items() if part is not None},
        },
    }


def digest(variables: Mapping[str, Any]) -> str:
    """A SHA-256 in hex of every leaf: weights in memory have no files to be known by."""
    digest = hashlib.sha256()
    for path, leaf in sorted(paths(variables).items()):
        add_leaf(digest, path, leaf)
    return digest.hexdigest()


def _describe(division: data_room.Division, say: Say) -> None:
    say(str(division.columns))
    counts = [f"{len(division.train):,} to train"]
    if division.validation is not None:
        counts.append(f"{len(division.validation):,} to validate")
    if division.test is not None:
        counts.append(f"{len(division.test):,} to evaluate at the end")
    labels = ", ".join(division.labels[:8]) + (", …" if len(division.labels) > 8 else "")
    say(", ".join(counts) + (f"; {len(division.labels)} labels: {labels}" if labels else ""))
    for note in division.notes:
        say(f"note: {note}")


def _describe_model(model: Model, assembly: Assembly, read: Reading) -> str:
    size = sum(leaf.size for leaf in paths(assembly.plan.variables["params"]).values())
    family = f"{model.info.family} of" if model.info.family else "a network of your own,"
    pooling = f", {model.info.pooling} pooling" if model.info.pooling not in (None, "none") else ""
    return f"{family} {size:,} parameters{pooling}, {read.described}"


def checked_pair(value: Any) -> tuple[Model, Mapping[str, Any]]:
    """A model in memory; raises `InputError` for what is no `(model, variables)`."""
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Model)):
        kind = type(value).__name__
        raise InputError(
            f"the model must be a folder, a name on the hub, (model, variables), a plan or an experiment, not {kind}"
        )
    model, variables = value
    check_variables(variables)
    return model, variables


def _name(role: str, value: Any) -> str:
    """What an object is called in the experiment: for data its content, so that resuming can tell."""
    if role == "model":
        model = value.model if isinstance(value, Plan) else value[0]
        source = model.info.source
        return _IN_MEMORY if source is None else f"{_IN_MEMORY}: {source.name}"
    splits = data_room.open(value)
    return f"{_IN_MEMORY}: " + " ".join(f"{name} {part.fingerprint[:12]}" for name, part in splits.items())


def short_name(place: str) -> str:
    """What data, a model or a run are called in short: the name of their folder, or of their file without its kind."""
    if place.startswith(_IN_MEMORY):
        return "data"
    file, colon, part = place.rpartition(":")  # a set within a file: digits.npz:usps
    file, part = (file, f"-{part}") if colon and Path(file).suffix.lower() in _KINDS else (place, "")
    path = Path(file).resolve()
    return (path.stem if path.suffix.lower() in _KINDS else path.name) + part
