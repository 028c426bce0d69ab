"""What a plan will train and cost, as a table, before anything is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax

from tl_jax.data import TrainBatches, shape_of
from tl_jax.groups import FROZEN
from tl_jax.methods import Plan
from tl_jax.model import Model
from tl_jax.rules import paths
from tl_jax.tabular import columns
from tl_jax.training.flops import flops
from tl_jax.training.optimizer import decay_labels
from tl_jax.training.phases import labels_in, phases, starts
from tl_jax.training.prefixes import handed
from tl_jax.training.recipe import Recipe
from tl_jax.training.sources import starts_of
from tl_jax.training.state import create
from tl_jax.training.step import compiled_train_step, inputs_of
from tl_jax.trees import by_path


def plan_table(plan: Plan, model: Model, task: Any, recipe: Recipe, batches: TrainBatches, *, keep: bool) -> str:
    """Per group: tensors, parameters, learning rate, weight decay, optimiser bytes; then the FLOPs of a step.

    `model` is the plan's, in the precision that computes. Nothing is compiled or allocated: shapes are traced.
    """
    leaves = {path: leaf for path, leaf in paths(plan.variables).items() if not path.startswith("batch_stats/")}
    labels = decay_labels(plan.labels)
    groups = paths(labels)
    solved = not plan.stepped
    rows: dict[str, list[Any]] = {}
    bytes_of = {} if solved else _optimizer_bytes(plan, labels, recipe)
    for path, leaf in leaves.items():
        group = groups[path]
        frozen = group is FROZEN
        row = rows.setdefault("frozen" if frozen else group.name, [0, 0, set(), set(), 0])
        row[0] += 1
        row[1] += leaf.size
        if not frozen and not solved:
            row[2].add(recipe.rate * group.lr)
            row[3].add(recipe.weight_decay * group.decay)
            row[4] += bytes_of[path]
    header = ("group", "tensors", "parameters", "learning rate", "weight decay", "optimiser")
    body = [
        (name, f"{n:,}", f"{size:,}", _range(rates), _range(decays), _bytes(state) if rates else "")
        for name, (n, size, rates, decays, state) in sorted(rows.items(), key=lambda item: item[0] == "frozen")
    ]
    total = sum(row[1] for row in rows.values())
    trained = total - rows.get("frozen", [0, 0])[1]
    head = f"{plan.method}: {trained:,} of {total:,} parameters train ({trained / total:.2%}), from {plan.cut} up"
    return "\n".join([head, *columns([header, *body]), _cost(plan, model, task, recipe, batches, keep)])


def _cost(plan: Plan, model: Model, task: Any, recipe: Recipe, batches: TrainBatches, keep: bool) -> str:
    first = ""
    if plan.solver is not None:
        lengths = " or ".join(str(length) for length in batches.lengths)
        once = f"features of {len(batches.examples):,} examples once" + (f" ({lengths} tokens)" if lengths else "")
        first = f"{once}, then the head is solved to convergence, C={plan.solver.C:g}"
        if not plan.stepped:
            return first
        first += "; then\n"
    labels = decay_labels(plan.labels)
    per_epoch = batches.steps_per_epoch
    total = recipe.total(per_epoch)
    began = starts(phases(labels), total, per_epoch)
    counts = []
    phased = [labels_in(labels, phase) for phase in range(len(began))]
    passes = [(end - start) / per_epoch for start, end in pairwise([*began, total])]
    cuts = starts_of(model, phased, passes) if keep else [None] * len(began)
    for cut, trained in zip(cuts, phased, strict=True):
        how: dict[str, Any] = {"accumulate": recipe.accumulate, "precision": recipe.precision, "start": cut}
        step = compiled_train_step(model, task.total_loss, recipe.spec, trained, **how)
        state = _abstract_state(plan, trained, recipe)
        hyper = recipe.hyper(recipe.rate)
        for shape in batches.shapes:
            batch = _of_shape(batches.batch(0), shape)
            counts.append(flops(step, state, batch | _features(plan, model, cut, batch, recipe.accumulate), hyper))
    costs = f"{min(counts) / 1e9:,.3g} to {max(counts) / 1e9:,.3g}" if len(counts) > 1 else f"{counts[0] / 1e9:,.3g}"
    thaws = f"\nphases start at steps {', '.join(f'{i + 1:,}' for i in began)}" if len(began) > 1 else ""
    kept = _said_of_features(cuts, starts_of(model, phased, [2.0] * len(phased)))
    return (
        f"{first}{total:,} steps ({total / per_epoch:.3g} epochs of {len(batches.examples):,} examples) of "
        f"{batches.described}, {costs} GFLOPs each; {batches.padding:.0%} padding{kept}{thaws}"
    )


def _said_of_features(cuts: Sequence[str | None], possible: Sequence[str | None]) -> str:
    """Whether frozen work is done once, or why not; nothing where nothing is frozen for long."""
    named = ", ".join(dict.fromkeys(cut for cut in cuts if cut))
    if named:
        return f"; what is frozen below {named} is computed once"
    frozen = next((cut for cut in possible if cut), None)
    return f"; what is frozen below {frozen} is computed in every step: one pass, or --no-cache" if frozen else ""


def _of_shape(batch: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """The batch's shapes with `shape` in place of that of what the model reads."""
    old = shape_of(batch)
    return {
        key: jax.ShapeDtypeStruct(shape if value.shape == old else value.shape, value.dtype)
        for key, value in batch.items()
    }


def _features(plan: Plan, model: Model, cut: str | None, batch: dict[str, Any], accumulate: int) -> dict[str, Any]:
    """The shapes of what stages below `cut` hand over, for a batch of these shapes."""
    if cut is None:
        return {}

    def below(variables: Any, inputs: Any) -> Any:
        out = model.apply(variables, inputs, stop=cut)
        return {key: out[key] for key in handed(model, cut)}

    parts = below if accumulate == 1 else jax.vmap(below, in_axes=(None, 0))
    found: dict[str, Any] = jax.eval_shape(parts, plan.variables, inputs_of(batch))
    return found


def _abstract_state(plan: Plan, labels: Any, recipe: Recipe) -> Any:
    tx = recipe.spec.build(labels)

    def made(variables: Any) -> Any:
        return create(variables, labels, tx, jax.random.key(0), averaged=recipe.ema > 0)

    return jax.eval_shape(made, dict(plan.variables))


def _optimizer_bytes(plan: Plan, labels: Any, recipe: Recipe) -> dict[str, int]:
    """Bytes of optimiser state that belong to each trainable path."""
    state = _abstract_state(plan, labels, recipe)
    found = dict.fromkeys(paths(plan.variables), 0)
    suffixes = {path if path.startswith("adapters/") else f"params/{path}": path for path in found}
    for name, leaf in by_path(state.opt_state).items():
        for suffix, path in suffixes.items():
            if name.endswith("/" + suffix):
                found[path] += leaf.size * leaf.dtype.itemsize
                break
    return found


def _range(values: set[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _bytes(n: int) -> str:
    return f"{n / 1e6:,.1f} MB" if n >= 1e5 else f"{n / 1e3:,.1f} kB"
