"""A model is a chain of pure stages, and `Model.apply` the only place that loops over them.

Variables are `{collection: {scope: tree}}`, a stage's scope being its name unless it says otherwise. All that depends
on depth follows from the chain: cuts (`start`, `stop`), the first stage in training mode (`train_from`),
rematerialisation, adapter sites.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import errors as flax_errors

from tl_jax.errors import InputError, did_you_mean
from tl_jax.hooks import Adapters, Still, site_path, within
from tl_jax.own import FunctionNetwork, LinenNetwork
from tl_jax.scopes import add, put, taken
from tl_jax.stage import ARGUMENTS, Stage, State, Variables, arguments, check_key, check_variables, complete, written
from tl_jax.trees import STATISTICS

_BEFORE_STAGES = {"adapters": 2, STATISTICS: 1}  # parts of a leaf's path that come before its stage's scope


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model beside its computation; not part of the compilation key.

    `config` is the raw config.json; `source` says where the weights came from; `names` maps canonical paths to the
    names they were read under, `carried` foreign names to tensors kept unread, `copies` names under which a file
    repeats a leaf to its path, so that writing gives all of them back. `example` are inputs (shapes and dtypes alone)
    by which shapes are found where none are given.
    """

    family: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    source: Any = None
    processor: Any = None
    pooling: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    alias: Callable[[str], str | None] | None = None  # foreign names, or parts of them, to ours
    example: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Site:
    """A module call adapters can act on: its path, kind (dense, embed, conv, norm) and feature counts."""

    path: str
    kind: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Model:
    """A chain of stages. Hashable: it is the static argument of a compiled step, hence the compilation key.

    `inputs` are the state keys the chain starts from. `hooks` are the methods whose adapter leaves act inside `apply`:
    objects with a `name` (their collection under `adapters`) and `override(params, leaves) -> params` or
    `intercept(site, leaves, call, *args) -> out`, or both. `remat` names the stages whose activations are recomputed in
    the backward pass (True: all).
    """

    stages: tuple[Stage, ...]
    inputs: tuple[str, ...] = ("tokens", "mask", "token_type", "positions", "segments")
    hooks: tuple[Any, ...] = ()
    remat: bool | tuple[str, ...] = False
    info: ModelInfo = field(default_factory=ModelInfo, compare=False)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"stage names must be unique; twice: {', '.join(twice)}")
        for stage in self.stages:
            for key in (*stage.reads, *stage.writes):
                check_key(key, f"stage {stage.name!r}")
        for name in () if isinstance(self.remat, bool) else self.remat:
            self.index(name)

    # -- somebody's own network -----------------------------------------------------------------------------------

    @classmethod
    def from_linen(
        cls,
        module: Any,
        *,
        reads: str | Sequence[str] | None = None,
        writes: str | Sequence[str] = "logits",
        processor: Any = None,
    ) -> Model:
        """A Linen module as a model of one stage, its parameters under the paths that the module gives them.

        `reads` are state keys, in the order of the arguments of `__call__`; without them the arguments' names say:
        `tokens` and `mask`, or `input_ids` and `attention_mask`, or `image`. `writes` says what comes back: `logits`
        `[N, labels]`, or `pooled` `[N, D]` for a task to put its head on; several as a tuple in their order or a dict.

        An argument `train`, `training`, `is_training` or `deterministic` is told whether the network trains. In
        training every stream it draws from follows from the key of `apply`, and `batch_stats` may change. `processor`
        is what makes its inputs of texts. Raises `InputError` for a module that cannot be hashed or called like this.
        """
        if not isinstance(module, nn.Module):
            hint = f"; give an instance, {module.__name__}(…)" if isinstance(module, type) else ""
            raise InputError(f"from_linen takes a flax.linen.Module, not {module!r}{hint}")
        return cls._of_one(LinenNetwork.of(module, ARGUMENTS, reads, writes), processor)

    @classmethod
    def from_function(
        cls,
        apply: Callable[..., Any],
        variables: Variables,
        *,
        reads: str | Sequence[str] | None = None,
        writes: str | Sequence[str] = "logits",
        processor: Any = None,
    ) -> Model:
        """A function `apply(params, *arrays)` as a model of one stage; all else as in `from_linen`.

        `variables` are `{"params": nested dicts}` of arrays or shapes: the shapes alone are kept, for those of what
        it writes follow from them. A function that draws takes `key` beside `train`: a key in training, None in
        evaluation. It keeps no statistics, and is the same model only while it is the same object.
        """
        if not callable(apply):
            raise InputError(f"from_function takes a function of params and arrays, not {apply!r}")
        return cls._of_one(FunctionNetwork.of(apply, variables, ARGUMENTS, reads, writes), processor)

    @classmethod
    def _of_one(cls, network: LinenNetwork | FunctionNetwork, processor: Any) -> Model:
        calling = network.calling
        stage = Stage("network", network, calling.reads, calling.writes, scope="")
        return cls((stage,), inputs=calling.reads, info=ModelInfo(processor=processor))

    # -- places ---------------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.stages)

    @property
    def processor(self) -> Any:
        """What turns texts into the model's inputs, `info.processor`; None where the model came without."""
        return self.info.processor

    @property
    def packs(self) -> bool:
        """Whether several examples may share a row: positions keep to their segment, and what is by example, `pooled`,
        is told where each starts."""
        reads = {key for stage in self.stages for key in stage.reads}
        return "segments" in reads and ("starts" in reads or self.by_token) and "mask" not in reads

    @property
    def by_token(self) -> bool:
        """Whether the last stage makes logits of `hidden`, token by token, as a language model's head does."""
        last = self.stages[-1]
        return "tokens" in self.stages[0].reads and "logits" in last.writes and "hidden" in last.reads

    def index(self, at: str) -> int:
        """The place of a stage in the chain; raises `InputError` with the nearest names."""
        if at not in self.names:
            ours = self.info.alias(at) if self.info.alias else None
            hint = f"; {at} is {ours} here" if ours else did_you_mean(at, self.names)
            raise InputError(f"the model has no stage {at!r}{hint}")
        return self.names.index(at)

    def depth(self, path: str) -> int:
        """The index of the first stage that owns the leaf at `path`.

        An adapter's leaf belongs to its site's stage, what a norm keeps (`batch_stats/…`) to the norm's.
        """
        return self._first(path, borrowed=False)

    def first_use(self, path: str) -> int:
        """The index of the first stage that reads the leaf at `path`, shared scopes and borrows counted."""
        return self._first(path, borrowed=True)

    def _first(self, path: str, *, borrowed: bool) -> int:
        parts = path.split("/")
        inner = "/".join(parts[_BEFORE_STAGES.get(parts[0], 0) :])
        home = self._owner(inner)
        for i, stage in enumerate(self.stages):
            if stage.home == home or (borrowed and any(within(inner, owner) for _, owner in stage.borrows)):
                return i
        raise InputError(f"no stage owns {path!r}{did_you_mean(inner.split('/')[0], self.names)}")

    def _owner(self, path: str) -> str | None:
        """The innermost scope that holds the leaf or module at `path`: "" only where no other does."""
        return max((stage.home for stage in self.stages if within(path, stage.home)), key=len, default=None)

    def _others(self, stage: Stage) -> frozenset[str]:
        """The scopes that a stage of scope "" must leave to the others."""
        return frozenset() if stage.home else frozenset(other.home for other in self.stages if other.home)

    def live(self, cut: str) -> tuple[str, ...]:
        """The state keys that stages from `cut` on read and do not write first: what a cut must hand over."""
        written: set[str] = set()
        live: dict[str, None] = {}
        for stage in self.stages[self.index(cut) :]:
            live.update(dict.fromkeys(key for key in stage.reads if key not in written))
            written.update(stage.writes)
        return tuple(live)

    # -- new chains from this one ---------------------------------------------------------------------------------

    def attach(self, *stages: Stage, at: str | None = None) -> Model:
        """A model that goes on with `stages`: at the end, or in place of everything from the stage `at` on."""
        kept = self.stages if at is None else self.stages[: self.index(at)]
        chain = (*kept, *stages)
        names = {stage.name for stage in chain}
        remat = self.remat if isinstance(self.remat, bool) else tuple(name for name in self.remat if name in names)
        return replace(self, stages=chain, remat=remat)

    def insert(self, before: str, stage: Stage) -> Model:
        """A model with one stage more, in front of the stage `before`."""
        i = self.index(before)
        return replace(self, stages=(*self.stages[:i], stage, *self.stages[i:]))

    def cast(self, dtype: Any) -> Model:
        """The same model computing in `dtype`; its parameters keep theirs."""
        return replace(self, stages=tuple(replace(s, module=s.module.clone(dtype=dtype)) for s in self.stages))

    # -- shapes, sites and first values ---------------------------------------------------------------------------

    def shapes(self, inputs: State | None = None) -> dict[str, Any]:
        """The variables' `jax.ShapeDtypeStruct`s, without computing anything. `inputs` default to `info.example`, or
        else to 8 tokens."""
        variables: dict[str, Any] = {"params": {}}
        seen: set[str] = set()
        for _, stage, _, shapes in self._traced(inputs):
            if stage.home not in seen:
                seen.add(stage.home)
                add(variables, stage.home, stage.borrows, self._others(stage), shapes)
        return variables

    def init(self, key: jax.Array, inputs: State | None = None, only: Collection[str] | None = None) -> dict[str, Any]:
        """First values from the reference's initialisers; `only` (stage names) initialises those stages alone.

        Only the shapes and dtypes of `inputs` matter. A stage's values depend on `key` and its index, not on `only`.
        """
        for name in only or ():
            self.index(name)
        variables: dict[str, Any] = {"params": {}}
        owners: dict[str, int] = {}  # the first stage of a scope gives the key, whichever stage is asked for
        made: set[str] = set()
        for i, stage, args, _ in self._traced(inputs):
            owner = owners.setdefault(stage.home, i)
            if stage.home not in made and (only is None or stage.name in only):
                made.add(stage.home)
                mine = jax.random.fold_in(key, owner)
                values = stage.module.lazy_init(mine, *args, train=False, **stage.keywords)
                add(variables, stage.home, stage.borrows, self._others(stage), values)
        return variables

    def _traced(self, inputs: State | None) -> Iterator[tuple[int, Stage, list[Any], Mapping[str, Any]]]:
        """Each stage with the shapes of its arguments and variables; alike stages are traced once."""
        state = self._abstract(inputs)
        traces: dict[Any, tuple[Any, Any]] = {}
        for i, stage in enumerate(self.stages):
            args = arguments(stage, state)
            alike = (stage.module, stage.constants, tuple(a and (a.shape, a.dtype) for a in args))
            if alike not in traces:
                call = partial(stage.module.init_with_output, train=False, **stage.keywords)
                traces[alike] = jax.eval_shape(lambda *a, call=call: call(jax.random.key(0), *a), *args)
            out, shapes = traces[alike]
            yield i, stage, args, shapes
            state.update(written(stage, out))

    def sites(self, inputs: State | None = None) -> tuple[Site, ...]:
        """Where adapters can act, in the order of the chain: one abstract trace."""
        found: dict[str, Site] = {}

        def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            kind = next((k for k, types in _KINDS.items() if isinstance(context.module, types)), None)
            if kind is None and _is_norm(context.module):
                kind = "norm"
            if kind and context.method_name == "__call__" and args and hasattr(out, "shape"):
                path = site_path(home, context.module.path)
                inside = context.module.num_embeddings if kind == "embed" else args[0].shape[-1]
                found.setdefault(path, Site(path, kind, inside, out.shape[-1]))
            return out

        state = self._abstract(inputs)
        for stage in self.stages:
            home = stage.home

            def run(*args: Any, stage: Stage = stage) -> Any:
                return stage.module.init_with_output(jax.random.key(0), *args, train=False, **stage.keywords)[0]

            with nn.intercept_methods(record):
                state.update(written(stage, jax.eval_shape(run, *arguments(stage, state))))
        return tuple(found.values())

    def _abstract(self, inputs: State | None) -> dict[str, Any]:
        if inputs is None:
            inputs = self.info.example
        if inputs is None:
            if "tokens" not in self.inputs:
                raise InputError(f"give example inputs: shapes of {', '.join(self.inputs)} cannot be guessed")
            inputs = {"tokens": jax.ShapeDtypeStruct((1, 8), jnp.int32)}
        for key in inputs:
            check_key(key, "the example")
        return dict(jax.eval_shape(complete, dict(inputs)))

    # -- the computation ------------------------------------------------------------------------------------------

    def apply(
        self,
        variables: Variables,
        state: State,
        *,
        start: str | None = None,
        stop: str | None = None,
        train_from: str | None = None,
        evaluate: tuple[str, ...] = (),
        key: jax.Array | None = None,
        mutable: tuple[str, ...] = (),
    ) -> Any:
        """Run the stages from `start` up to, not including, `stop`, and return the whole state.

        `train_from` names the first stage in training mode: those below it, and those named in `evaluate`, run in
        evaluation mode; None is evaluation throughout. `evaluate` may also name batch norms in a stage of scope "", by
        module path. `key` is folded with a stage's index in the whole chain, so cuts see the same bits. With `mutable`
        (collections) the result is `(state, changed collections)`. Raises `InputError` for unknown state keys and
        stages, inputs, variables or keys that are missing, statistics that training would change while `mutable` lacks
        them, a cache that `mutable` lacks or tokens without positions where there is one, and adapter leaves that no
        trace reads.
        """
        first = 0 if start is None else self.index(start)
        last = len(self.stages) if stop is None else self.index(stop)
        training = len(self.stages) if train_from is None else self.index(train_from)
        if last < first:
            raise InputError(f"nothing lies between start {start!r} and stop {stop!r}: the stop comes first")
        still = Still(name for name in evaluate if name not in self.names)
        if all(stage.home for stage in self.stages):
            for name in evaluate:
                self.index(name)
        for key_ in state:
            check_key(key_, "the state")
        check_variables(variables)
        self._check_cache(variables, state, first, mutable)
        state = complete(state) if first == 0 else dict(state)
        adapters = Adapters(self.hooks, variables.get("adapters") or {})
        variables = {**variables, "params": adapters.override(variables["params"])}
        changed = {c: dict(variables[c]) for c in mutable if c in variables}

        for i, stage in enumerate(self.stages[first:last], first):
            train = i >= training and stage.name not in evaluate
            rngs = {"dropout": jax.random.fold_in(key, i)} if train and key is not None else None
            held = still.interceptors() if train and not stage.home else []

            def run(
                mine: Any, args: Any, rngs: Any, stage: Stage = stage, train: bool = train, held: Any = held
            ) -> tuple[Any, Mapping[str, Any]]:
                with contextlib.ExitStack() as entered:
                    for interceptor in (*held, *adapters.interceptors(stage.home)):
                        entered.enter_context(nn.intercept_methods(interceptor))
                    out = stage.module.apply(
                        mine, *args, train=train, rngs=rngs, mutable=list(mutable), **stage.keywords
                    )
                return out  # with `mutable` a list, always the pair (output, changes)

            if train and (self.remat is True or (self.remat and stage.name in self.remat)):
                run = jax.checkpoint(run)
            try:
                mine = taken({**variables, **changed}, stage.home, stage.borrows, self._others(stage))
                out, changes = run(mine, arguments(stage, state), rngs)
            except tuple(_FAULTS) as e:
                said = str(e).split(" (https:")[0]
                raise InputError(f"stage {stage.name!r} {_FAULTS[type(e)]} ({said})") from None
            if held:
                still.check_called()
            state.update(written(stage, out))
            for collection, tree in changes.items():
                put(changed, collection, stage.home, tree)
        ran = {stage.home for stage in self.stages[first:last]}
        adapters.check_read(lambda site: self._owner(site) in ran)
        return (state, changed) if mutable else state

    def _check_cache(self, variables: Variables, state: State, first: int, mutable: tuple[str, ...]) -> None:
        """A cache is written to, and what comes next is not at position 0: neither can be guessed."""
        if "cache" not in variables:
            return
        if "cache" not in mutable:
            raise InputError("the variables hold a cache, which attention adds to: name it in `mutable`")
        if first == 0 and "positions" not in state and any("positions" in stage.reads for stage in self.stages):
            raise InputError("behind what a cache holds tokens do not start at position 0: give their `positions`")


_FAULTS: dict[type[Exception], str] = {
    flax_errors.InvalidRngError: "draws dropout in training mode: give apply a key",
    flax_errors.ModifyScopeVariableError: "updates a collection in training mode: name it in `mutable`",
    flax_errors.ScopeCollectionNotFound: "finds no variables of its own",
    flax_errors.ScopeParamNotFoundError: "lacks a parameter",
    flax_errors.ScopeParamShapeError: "has a parameter of another shape",
}
_KINDS: dict[str, tuple[type, ...]] = {"dense": (nn.Dense,), "embed": (nn.Embed,), "conv": (nn.Conv,)}


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Norm")
