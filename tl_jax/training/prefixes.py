"""Frozen work, done once: what the stages below the lowest trainable one make of each example.

In evaluation mode that is a pure function of the example, so it is computed once, kept, and training starts from the
cut. Whatever a cut hands over (`Model.live`) and stages below wrote is kept: `hidden` of texts position by position,
ragged; `pooled`, and all of images, example by example.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tl_jax.data import Examples, Feature, PassShape
from tl_jax.methods.linear_head import cuts
from tl_jax.model import Model
from tl_jax.parallel import Placement
from tl_jax.rules import paths
from tl_jax.training.feature_store import Arrays, FeatureStore
from tl_jax.training.loop import Interrupted
from tl_jax.training.step import inputs_of, policy_of
from tl_jax.trees import add_leaf


def handed(model: Model, cut: str) -> tuple[str, ...]:
    """The state keys that stages from `cut` on read and stages below it wrote; none if nothing lies below."""
    below = {key for stage in model.stages[: model.index(cut)] for key in stage.writes}
    return tuple(key for key in model.live(cut) if key in below)


@dataclass(frozen=True, eq=False)
class Prefixes:
    """The part of a model below a cut, at its pre-trained variables, and where features are kept.

    `model` computes in its precision; `variables` are those that nothing below the cut will change, on the host.
    `passing` and `pad` are how a pass over a whole set is cut; `machine` is what decides the bits beside all these.
    With `keep` steps may start from the features.
    """

    model: Model
    variables: Mapping[str, Any]
    passing: PassShape
    pad: int
    precision: str
    placement: Placement
    store: FeatureStore
    machine: Mapping[str, Any]
    keep: bool
    say: Callable[[str], object]
    stop_asked: Callable[[], bool]
    swept: tuple[Prefixes, str] | None = None  # of a probe whose cut was chosen: what all cuts were computed by, and it

    @cached_property
    def _memory(self) -> FeatureStore:
        return FeatureStore(None, self.say)

    def features(self, cut: str, examples: Examples) -> Examples | None:
        """The examples with what stages below `cut` make of them; None where that cannot be kept."""
        if self.swept is not None:
            whole, at = self.swept
            swept = whole.sweep(examples)
            return None if swept is None else _with(examples, {"pooled": Feature(swept[at], ragged=False)})
        arrays = self._kept(cut, examples)
        if arrays is None:
            return None
        return _with(examples, {name: Feature(array, name in examples.ragged) for name, array in arrays.items()})

    def sweep(self, examples: Examples) -> Arrays | None:
        """`pooled` at every cut of the chain, `{cut: [N, D]}`, from one pass; None where that cannot be kept."""
        return self._kept("head", examples, sweep=True)

    def _kept(self, cut: str, examples: Examples, *, sweep: bool = False) -> Arrays | None:
        key = self._key(cut, sweep, examples)
        store = self.store if _nameable(self.model, cut) else self._memory
        arrays = store.find(key)
        if arrays is None:
            self.say(f"features of {len(examples):,} examples, {'at every cut' if sweep else f'up to {cut}'}")
            arrays = store.make(key, self._shapes(cut, sweep, examples), partial(self._fill, cut, sweep, examples))
        return arrays

    def pooled(self, cut: str, examples: Examples) -> tuple[Examples, str | None]:
        """The examples to score once by a model of which nothing below `cut` was trained, and where to start.

        With features where those are a vector an example: they are little to keep, and made by the pass that scores.
        """
        small = self.keep and handed(self.model, cut) == ("pooled",)
        found = self.features(cut, examples) if small else None
        return (examples, None) if found is None else (found, cut)

    def _shapes(self, cut: str, sweep: bool, examples: Examples) -> dict[str, tuple[tuple[int, ...], Any]]:
        batch = self.passing.over(examples, self.pad).batch(0)
        below = partial(_below, self.model, cut, sweep, self.precision, self.placement)
        out = jax.eval_shape(below, self.variables, inputs_of(batch))
        tail = {name: leaf.shape[2 if name in examples.ragged else 1 :] for name, leaf in out.items()}
        return {name: ((examples.rows(name), *tail[name]), leaf.dtype) for name, leaf in out.items()}

    def _fill(self, cut: str, sweep: bool, examples: Examples, arrays: Arrays) -> None:
        below = self.placement.fed(partial(_compiled, self.model, cut, sweep, self.precision, self.placement))
        variables = self.placement.variables(self.variables)
        place = {int(index): i for i, index in enumerate(examples.index)}
        for batch in self.passing.over(examples, self.pad):
            if self.stop_asked():
                raise Interrupted("stopped before the features were there: they are made anew")
            out = jax.device_get(below(variables, inputs_of(batch)))
            slots = 1 if "starts" not in batch else batch["starts"].shape[1]
            for n in np.flatnonzero(batch["weights"] > 0):
                i = place[int(batch["index"][n])]
                start = 0 if "starts" not in batch else int(batch["starts"].ravel()[n])
                for name, values in out.items():
                    span = examples.span(name, i)
                    if name in examples.ragged:
                        arrays[name][span] = values[n // slots, start : start + span.stop - span.start]
                    else:
                        arrays[name][i] = values[n]

    def _key(self, cut: str, sweep: bool, examples: Examples) -> str:
        """Of all that decides the features, bit by bit."""
        facts = [
            _code(),
            json.dumps(self.machine, sort_keys=True),
            self.precision,
            repr(self.passing),
            str(self.pad),
            f"{cut} {sweep}",
            *(repr((s.name, type(s.module).__name__, s.module, s.constants)) for s in self._stages(cut)),
            *(repr(hook) for hook in self.model.hooks),
        ]
        digest = hashlib.sha256("\n".join(facts).encode())
        for path, leaf in sorted(paths(self.variables).items()):
            if self.model.first_use(path) < self.model.index(cut):
                add_leaf(digest, path, leaf)
        for name, array in examples.facts():
            add_leaf(digest, name, array)
        return digest.hexdigest()[:40]

    def _stages(self, cut: str) -> Sequence[Any]:
        return self.model.stages[: self.model.index(cut)]


def _with(examples: Examples, features: Mapping[str, Feature]) -> Examples:
    found: Examples = replace(examples, features=features)  # type: ignore[type-var]
    return found


def _below(
    model: Model, cut: str, sweep: bool, precision: str, placement: Placement, variables: Any, inputs: Any
) -> dict[str, Any]:
    """What stages below `cut` hand over; in a sweep what is pooled at each cut, by its name."""
    with policy_of(precision)():
        variables = placement.gathered(variables)
        if not sweep:
            out = model.apply(variables, inputs, stop=cut)
            return {key: placement.whole(out[key]) for key in handed(model, cut)}
        *_, pooler = places = cuts(model)
        found, state, at = {}, inputs, None
        for place in places:
            state, at = model.apply(variables, state, start=at, stop=place), place
            found[place] = placement.whole(model.apply(variables, state, start=pooler, stop=cut)["pooled"])
        return found


_compiled = jax.jit(_below, static_argnums=(0, 1, 2, 3, 4))


def _nameable(model: Model, cut: str) -> bool:
    """Whether the stages below are ours: of somebody's own code nothing tells that it is the same tomorrow."""
    parts = [*(stage.module for stage in model.stages[: model.index(cut)]), *model.hooks]
    return all(type(part).__module__.startswith(("tl_jax.models.", "tl_jax.methods.")) for part in parts)


@lru_cache(maxsize=1)
def _code() -> str:
    """A digest of the code that computes them."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted([*root.glob("*.py"), *(root / "models").glob("*.py"), *(root / "methods").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
