"""Arrays on a mesh: put there, and held there by the step.

A step on a mesh computes what it computes on one device. In two places it says where arrays lie: parameters are
gathered over the axes that only store them before they are used, and their gradients scattered again; and the new state
lies as the old one did, so it is donated and nothing compiles twice. All else follows from the batch, which is split by
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tl_jax.errors import InputError
from tl_jax.parallel.axes import AXES, Axes, fitting, read
from tl_jax.parallel.shardings import DEFAULT, Rules, follow, parts, rows, specs, without
from tl_jax.rules import Rule
from tl_jax.trees import by_path

_STORING = ("data", "fsdp")  # a parameter cut along these is stored in parts and used whole


@dataclass(frozen=True)
class Placement:
    """A mesh and the rules for what lies where on it; without a mesh everything is left where JAX puts it.

    Hashable: a step is compiled for it. `variables` are `{collection: tree}`; a state is any pytree in which what
    belongs to a parameter has the parameter's path, led by its collection, at the end of its own.
    """

    mesh: Mesh | None = None
    rules: tuple[Rule | tuple[str, Any], ...] = DEFAULT

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Devices by axis."""
        return {} if self.mesh is None else dict(self.mesh.shape)

    @property
    def row_parts(self) -> int:
        """Into how many parts the rows of a batch are split."""
        return Axes(**self.sizes).parts

    # -- in words ---------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What a manifest says of it: the canonical text of the mesh, and the rules if they are somebody's own."""
        if self.mesh is None:
            return {"mesh": None}
        pairs = [rule if isinstance(rule, Rule) else Rule(*rule) for rule in self.rules]
        own = {} if self.rules == DEFAULT else {"shardings": [[rule.pattern, str(rule.value)] for rule in pairs]}
        return {"mesh": str(Axes(**self.sizes)), **own}

    def described(self, variables: Mapping[str, Any], rows: int) -> str:
        """A line about a mesh: its devices, and what each has of a (micro-)batch and stores of the parameters.

        Raises `InputError` for rules that cannot be; see `specs`.
        """
        assert self.mesh is not None
        axes, leaves = Axes(**self.sizes), by_path(variables)
        lie = by_path(self._lie(variables, variables))
        stored = sum(leaf.nbytes / parts(lie[path], self.sizes) for path, leaf in leaves.items())
        share = stored / sum(leaf.nbytes for leaf in leaves.values())
        kind = self.mesh.devices.flat[0].device_kind
        each = f"each computes {rows // axes.parts} of {rows} rows and stores {share:.0%} of the parameters"
        return f"mesh {axes}: {axes.size} {kind} devices; {each}"

    # -- outside a step ---------------------------------------------------------------------------------------------

    def variables(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables, numpy or not, as arrays on the mesh; what is no parameter is whole on every device."""
        if self.mesh is None:
            return dict(variables)
        return dict(jax.tree.map(self._put, variables, self._lie(variables, variables)))

    def state(self, state: Any, variables: Mapping[str, Any]) -> Any:
        """A training state of these variables on the mesh: what belongs to a parameter lies as it does."""
        return state if self.mesh is None else jax.tree.map(self._put, state, self._lie(state, variables))

    def batch(self, batch: Mapping[str, Any], *, axis: int = 0) -> Mapping[str, Any]:
        """A batch of host arrays, the same in every process, on its way to the devices; its rows along `axis` split."""
        if self.mesh is None:
            return {name: jax.device_put(array) for name, array in batch.items()}
        return {name: self._put(array, rows(array.shape, self.sizes, axis)) for name, array in batch.items()}

    def fed(self, step: Callable[..., Any], *, axis: int = 0) -> Callable[..., Any]:
        """A compiled `step(first, batch, …)` that takes the batch from the host; see `batch`."""
        if self.mesh is None:
            return step

        @wraps(step)
        def feed(first: Any, batch: Mapping[str, Any], *more: Any) -> Any:
            return step(first, self.batch(batch, axis=axis), *more)

        return feed

    # -- inside a step ----------------------------------------------------------------------------------------------

    def gathered(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Variables as a computation uses them: whole on the axes that only store. Gradients come back scattered."""
        if self.mesh is None:
            return variables

        def gather(leaf: Any, spec: P) -> Any:
            used = without(spec, *_STORING)
            return leaf if used == spec else _gathered(self._named(used), self._named(spec), leaf)

        return dict(jax.tree.map(gather, variables, self._lie(variables, variables)))

    def kept(self, state: Any, variables: Mapping[str, Any]) -> Any:
        """A state that lies as `state` puts it."""
        return state if self.mesh is None else jax.tree.map(self._held, state, self._lie(state, variables))

    def whole(self, tree: Any) -> Any:
        """Results that every process can read."""
        return tree if self.mesh is None else jax.tree.map(lambda leaf: self._held(leaf, P()), tree)

    # -- where things lie -------------------------------------------------------------------------------------------

    def _lie(self, tree: Any, variables: Mapping[str, Any]) -> Any:
        """A tree like `tree` of specs."""
        found = specs(variables, self.sizes, self.rules)
        leaves = by_path(variables)
        known = {path: (leaves[path].shape, spec) for path, spec in found.items()}
        every = [follow(path, leaf.shape, known) for path, leaf in by_path(tree).items()]
        return jax.tree.unflatten(jax.tree.structure(tree), every)

    def _named(self, spec: P) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, spec)

    def _held(self, leaf: Any, spec: P) -> Any:
        return jax.lax.with_sharding_constraint(leaf, self._named(spec))

    def _put(self, leaf: Any, spec: P) -> jax.Array:
        """The leaf on the mesh. Host arrays go part by part to where they lie: no device ever holds more."""
        sharding = self._named(spec)
        if isinstance(leaf, jax.Array):  # typed keys, and what is there already
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: np.asarray(leaf[index]))


ANYWHERE = Placement()


def place(text: str | None, *, rows: int, parts: int = 1, rules: Rules | None = None) -> Placement:
    """The placement that `--mesh` asks for, over the devices that are there; see `fitting` for what is refused.

    A mesh of one device is none: that is how JAX places arrays by itself. `rules` are in place of `DEFAULT`.
    """
    if text is None and rules is not None:
        raise InputError("shardings= says what lies where on a mesh: give mesh= too")
    if text is None:
        return ANYWHERE
    several = jax.process_count() > 1
    axes = fitting(text, devices=jax.device_count(), rows=rows, parts=parts, whole=several)
    return _over(axes, DEFAULT if rules is None else rules)


def place_again(text: str | None) -> Placement:
    """The placement of a run that is only asked: its mesh, or where that is not to be had all devices on `data`."""
    if text is None:
        return ANYWHERE
    axes, there = read(text), jax.device_count()
    if axes is None or there % axes.size or (jax.process_count() > 1 and axes.size != there):
        axes = Axes(data=there)
    return _over(axes, DEFAULT)


def _over(axes: Axes, rules: Rules) -> Placement:
    if axes.size == 1:
        return ANYWHERE
    shape, types = [getattr(axes, name) for name in AXES], (AxisType.Auto,) * len(AXES)
    return Placement(jax.make_mesh(shape, AXES, axis_types=types, devices=jax.devices()[: axes.size]), tuple(rules))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(used: NamedSharding, stored: NamedSharding, leaf: Any) -> Any:
    """The leaf whole; its gradient in parts, so that no device updates more than it stores."""
    return jax.lax.with_sharding_constraint(leaf, used)


def _forward(used: NamedSharding, stored: NamedSharding, leaf: Any) -> tuple[Any, None]:
    return _gathered(used, stored, leaf), None


def _backward(used: NamedSharding, stored: NamedSharding, _: None, gradient: Any) -> tuple[Any]:
    return (jax.lax.with_sharding_constraint(gradient, stored),)


_gathered.defvjp(_forward, _backward)
