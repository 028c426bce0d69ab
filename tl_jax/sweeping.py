"""`probe:at=auto`: from features at every cut of a chain to the probe that cross-validation prefers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax

from tl_jax.assembly import Assembly
from tl_jax.data import Examples
from tl_jax.errors import InputError
from tl_jax.methods import Method, Plan, parse
from tl_jax.methods.linear_head import AUTO, Probe
from tl_jax.preparation import Job
from tl_jax.training.choosing import choose
from tl_jax.training.prefixes import Prefixes


def settled(
    job: Job,
    assembly: Assembly,
    examples: Examples,
    say: Callable[[str], object],
    stop_asked: Callable[[], bool],
    *,
    seed: int,
    known: str | None = None,
) -> tuple[Assembly, Prefixes]:
    """The assembly of a method that leaves nothing open, and what is frozen of it.

    Where the method is `probe:at=auto`, cut and strength are chosen by cross-validation within `examples`; `known` is
    the method that was chosen before, when a run goes on. Raises `Interrupted` when `stop_asked`.
    """
    prefixes = job.prefixes(assembly, say, stop_asked)
    method = assembly.plan.method
    if not leaves_open(method):
        return assembly, prefixes
    chosen: Method
    if known is not None:
        chosen = parse(known)
    else:
        features = prefixes.sweep(examples)
        if features is None:
            raise InputError("probe:at=auto needs room for a vector an example at every cut: free some, or name a cut")
        choice = choose(features, examples.targets, len(assembly.task.labels), seed)
        told = ", ".join(f"{cut} {accuracy:.1%}" for cut, accuracy in choice.accuracy.items())
        say(f"accuracy by cut, cross-validated on the training examples: {told}")
        chosen = Probe(C=choice.strength, at=choice.cut, standardize=True)
        say(f"chosen: {chosen}")
    assert isinstance(chosen, Probe) and chosen.at is not None
    made = assembly.again(with_method(assembly.plan, chosen))
    return made, replace(prefixes, model=made.model, variables=made.plan.variables, swept=(prefixes, chosen.at))


def leaves_open(method: Method) -> bool:
    """Whether a method has something chosen for it before it trains."""
    return isinstance(method, Probe) and method.at == AUTO


def with_method(plan: Plan, method: Method) -> Plan:
    """The plan of another method over the same model; the head has its values already."""
    return method(plan.model, plan.variables, jax.random.key(0))
