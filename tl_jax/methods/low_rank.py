"""LoRA: a low-rank update beside each targeted dense kernel.

The base is not touched. A site `layers_0/attention/query` with a kernel `[in, out]` gets two leaves,

    adapters/lora/layers_0/attention/query/a  [in, rank]     uniform in ±1/√in
    adapters/lora/layers_0/attention/query/b  [rank, out]    zero, so at first nothing changes

and its output becomes `x @ kernel + bias + scaling · (x @ a) @ b`. `merge` adds `scaling · a @ b` to the kernel.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tl_jax.errors import InputError, did_you_mean
from tl_jax.groups import Group
from tl_jax.methods.merging import NotMergeable
from tl_jax.methods.plan import HEAD, REST_FROZEN, Plan, fill, under
from tl_jax.methods.spec import Spec
from tl_jax.model import Model, Site
from tl_jax.rules import Rule, paths
from tl_jax.stage import State, Variables

_ALL = "all"


@dataclass(frozen=True)
class Lora(Spec):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): the adapters and the head train, the base is frozen.

    The head of a language model is as pre-trained as the rest: it is of the base.

    `targets` is a regular expression over module paths, its alternatives separated by `|`. Each must match a run of
    whole path components of some dense module outside the head: `query` is every module of that name,
    `attention/query` the same below `attention`, `attention` every dense module below it, `layers_[01]` those of two
    layers; `all` is every dense module. The default is PEFT's for BERT.

    The update is scaled by `alpha / rank`, with `rslora` by `alpha / √rank` (Kalajdzievski 2023, arXiv 2312.03732).
    `alpha` is `rank` unless given, which is PEFT's default too (8 and 8). First values are PEFT's.

    Raises `InputError` for a target that matches no dense module (with the nearest, or why what it matches will not
    do), and for a model that has LoRA leaves already.
    """

    rank: int = 8
    alpha: float | None = None
    targets: str = "query|value"
    rslora: bool = False
    name: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise InputError(f"lora: rank must be 1 or more, not {self.rank}")
        if self.alpha is not None and self.alpha <= 0:
            raise InputError(f"lora: alpha must be positive, not {self.alpha}")
        _patterns(self.targets)

    @property
    def scaling(self) -> float:
        """What `a @ b` is multiplied by."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def __call__(self, model: Model, variables: Variables, key: jax.Array, inputs: State | None = None) -> Plan:
        if any(hook.name == self.name for hook in model.hooks):
            raise InputError("the model has LoRA leaves already: merge them first (tl.merge)")
        variables = fill(model, variables, key, inputs)
        leaves = self.leaves(key, model.sites(inputs), variables["params"], model.info.alias)
        variables = {**variables, "adapters": {**variables.get("adapters", {}), self.name: leaves}}
        rules = (
            Rule(under(f"adapters/{self.name}"), Group(self.name)),
            *([] if model.by_token else [Rule(under("head"), HEAD, optional=True)]),
            REST_FROZEN,
        )
        return Plan(replace(model, hooks=(*model.hooks, self)), variables, rules, self)

    def leaves(
        self,
        key: jax.Array,
        sites: Sequence[Site],
        params: Mapping[str, Any],
        alias: Callable[[str], str | None] | None = None,
    ) -> dict[str, Any]:
        """First values, float32, nested as the sites are. A site's depend on `key` and its path alone."""
        tree: dict[str, Any] = {}
        for site in _chosen(self.targets, sites, paths(params), alias):
            bound = 1 / math.sqrt(site.inputs)
            mine = jax.random.fold_in(key, zlib.crc32(f"{self.name}/{site.path}".encode()))
            inner = tree
            for part in site.path.split("/"):
                inner = inner.setdefault(part, {})
            inner["a"] = jax.random.uniform(mine, (site.inputs, self.rank), jnp.float32, -bound, bound)
            inner["b"] = jnp.zeros((self.rank, site.outputs), jnp.float32)
        return tree

    def intercept(self, site: str, leaves: Mapping[str, Any], call: Callable[..., Any], x: jax.Array) -> jax.Array:
        """The module's output plus the update, in the dtype the module computes in. `x` is `[…, in]`."""
        y: jax.Array = call(x)
        a, b = leaves["a"].astype(y.dtype), leaves["b"].astype(y.dtype)
        return y + (x.astype(y.dtype) @ a * self.scaling) @ b

    def merge(self, params: Mapping[str, Any], leaves: Mapping[str, Any]) -> dict[str, Any]:
        """`params` with `scaling · a @ b` added to the kernels, in float32, each kernel keeping its dtype.

        Raises `NotMergeable` where a site has no kernel of its own (borrowed or quantised).
        """
        return self._merge(params, leaves, ())

    def _merge(self, params: Any, leaves: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        merged = dict(params)
        if "a" in leaves and not isinstance(leaves["a"], Mapping):
            if "kernel" not in merged:
                raise NotMergeable(f"{'/'.join(path)} has no kernel of its own to merge LoRA into")
            kernel = merged["kernel"]
            update = jnp.matmul(leaves["a"], leaves["b"], precision="highest") * self.scaling
            merged["kernel"] = (jnp.asarray(kernel, jnp.float32) + update).astype(kernel.dtype)
            return merged
        for name, inner in leaves.items():
            merged[name] = self._merge(merged.get(name, {}), inner, (*path, name))
        return merged


def _chosen(
    targets: str, sites: Sequence[Site], leaves: Mapping[str, Any], alias: Callable[[str], str | None] | None
) -> list[Site]:
    """The sites that a target matches, each target matching at least one."""
    unfit = {site.path: reason for site in sites if (reason := _unfit(site, leaves))}
    fit = [site for site in sites if site.path not in unfit]
    if not fit:
        why = next((f": {s.path} {unfit[s.path]}" for s in sites if s.kind == "dense" and not _in_head(s)), "")
        raise InputError(f"lora: the model has no dense module outside its head{why}")
    if targets == _ALL:
        return fit
    matched: set[str] = set()
    for text, pattern in _patterns(targets).items():
        hits = {site.path for site in fit if _hits(pattern, site.path)}
        if not hits:
            raise InputError(
                f"lora: the target {text!r} matches no dense module{_why(text, pattern, fit, unfit, alias)}"
            )
        matched |= hits
    return [site for site in fit if site.path in matched]


def _unfit(site: Site, leaves: Mapping[str, Any]) -> str | None:
    """Why LoRA cannot act on a site."""
    if _in_head(site):
        return "is part of the head, which trains in full"
    if site.kind != "dense":
        return f"is of kind {site.kind}"
    kernel = leaves.get(f"{site.path}/kernel")
    if kernel is None:
        return "has no kernel of its own (it is tied to another's, or quantised)"
    if kernel.ndim != 2:
        return f"has a kernel of {list(kernel.shape)}, several layers in one: a single update would serve them all"
    return None


def _in_head(site: Site) -> bool:
    return site.path.split("/")[0] == "head"


def _why(
    text: str,
    pattern: re.Pattern[str],
    fit: Sequence[Site],
    unfit: Mapping[str, str],
    alias: Callable[[str], str | None] | None,
) -> str:
    for path, reason in unfit.items():
        if _hits(pattern, path):
            return f": {path} {reason}"
    if alias and (ours := alias(text)):
        return f"; {text} is {ours} here"
    if "," in text:
        return "; separate targets by |, not by commas"
    names = dict.fromkeys(site.path.rpartition("/")[2] for site in fit)
    runs = dict.fromkeys(run for site in fit for run in _runs(site.path))
    return did_you_mean(text, [_ALL, *runs]) or did_you_mean(text, [_ALL, *names])


def _hits(pattern: re.Pattern[str], path: str) -> bool:
    return any(pattern.fullmatch(run) for run in _runs(path))


def _runs(path: str) -> list[str]:
    """Every run of whole components: `a/b` gives a/b, a, b."""
    parts = path.split("/")
    n = len(parts)
    return ["/".join(parts[i:j]) for i in range(n) for j in range(n, i, -1)]


def _patterns(targets: str) -> dict[str, re.Pattern[str]]:
    """The alternatives of a regular expression, split at every `|` outside brackets."""
    texts, depth, start = [], 0, 0
    for mark in re.finditer(r"\\.|[|()\[\]{}]", targets):
        if mark.group() == "|" and depth == 0:
            texts.append(targets[start : mark.start()])
            start = mark.end()
        depth += (mark.group() in "([{") - (mark.group() in ")]}")
    found = {}
    for text in (*texts, targets[start:]):
        if not text:
            raise InputError(f"lora: targets {targets!r} has an empty alternative; 'query|value' names two")
        try:
            found[text] = re.compile(text)
        except re.error as e:
            raise InputError(f"lora: the target {text!r} is not a regular expression: {e}") from None
    return found
