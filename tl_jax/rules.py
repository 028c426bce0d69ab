"""One ordered list of `(pattern, value)` over parameter paths decides everything that is decided per parameter.

`match` gives every leaf of a tree the value of the first rule whose pattern matches its whole path; `explain` shows
how it came to that. A rule cannot lie: one that decides nothing is an error, which says whether nothing has such a
path (*absent*, with the nearest paths that exist) or an earlier rule took all of it (*shadowed*, by which).

    rules = [(r"layers_[45]/.*", Group("top")), (r"head/.*", Group("head", lr=10)), (r".*", FROZEN)]
    labels = match(rules, params)          # a tree like params, of groups
    print(explain(rules, params))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tl_jax.errors import InputError, nearest


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()  # the default of `default`: every leaf must be decided by a rule

Aliases = Callable[[str], str | None]


@dataclass(frozen=True)
class Rule:
    """A whole-path regular expression and the value it gives. An `optional` rule may decide nothing."""

    pattern: str
    value: Any
    optional: bool = False


def optional(rules: Iterable[Rule | tuple[str, Any]]) -> tuple[Rule, ...]:
    """The same rules, allowed to decide nothing: for lists that serve many families."""
    return tuple(replace(_rule(r, i), optional=True) for i, r in enumerate(rules))


def map_paths(fn: Callable[[str, Any], Any], tree: Any, path: tuple[str, ...] = ()) -> Any:
    """`tree` with every leaf replaced by `fn(path, leaf)`; holes (None) stay.

    Paths are keys joined by "/"; a leading `params` collection is dropped, other collections lead.
    Mappings become plain dicts; lists and tuples keep their type, their keys are indices.
    """
    if isinstance(tree, Mapping):
        return {key: map_paths(fn, value, (*path, str(key))) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [map_paths(fn, value, (*path, str(i))) for i, value in enumerate(tree)]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return None if tree is None else fn("/".join(path[1:] if path[:1] == ("params",) else path), tree)


def paths(tree: Any) -> dict[str, Any]:
    """`{path: leaf}` in the order of the tree, without its holes."""
    found: dict[str, Any] = {}
    map_paths(found.__setitem__, tree)
    return found


def match(
    rules: Iterable[Rule | tuple[str, Any]], tree: Any, *, default: Any = REQUIRED, aliases: Aliases | None = None
) -> Any:
    """A tree like `tree` holding, at each leaf, the value of the first rule that matches its whole path.

    `default` is given to leaves that no rule matches; without it every leaf must match. `aliases` translates a foreign
    name (a part of one, too) to ours for error messages. Raises `InputError` listing every fault at once: rules that
    decide nothing (absent or shadowed) and leaves that no rule decides; before these, every pattern that is no regular
    expression.
    """
    ruled = [_rule(r, i) for i, r in enumerate(rules)]
    decision = _decide(ruled, paths(tree))
    faults = decision.idle_faults(aliases)
    if default is REQUIRED and decision.undecided:
        faults.append(_uncovered(decision.undecided, len(decision.by)))
    if faults:
        raise InputError("\n".join(faults))
    return map_paths(lambda path, _: default if (i := decision.by[path]) is None else ruled[i].value, tree)


def explain(
    rules: Iterable[Rule | tuple[str, Any]], tree: Any, *, default: Any = REQUIRED, aliases: Aliases | None = None
) -> Explanation:
    """How `match` decides, as a table: what each rule takes, which are idle and why. Never raises for idle rules."""
    ruled = [_rule(r, i) for i, r in enumerate(rules)]
    leaves = paths(tree)
    decision = _decide(ruled, leaves)
    rows = []
    for i, rule in enumerate(ruled):
        mine = [path for path, by in decision.by.items() if by == i]
        note = (mine[0] + (" …" if len(mine) > 1 else "")) if mine else decision.why_idle(i, aliases)
        if not mine and rule.optional:
            note = f"idle (optional): {note}"
        rows.append(Row(rule.pattern, rule.value, len(mine), sum(_size(leaves[p]) for p in mine), note))
    if decision.undecided:
        note = _uncovered(decision.undecided, len(leaves)) if default is REQUIRED else decision.undecided[0]
        size = sum(_size(leaves[p]) for p in decision.undecided)
        rows.append(Row("(default)", None if default is REQUIRED else default, len(decision.undecided), size, note))
    return Explanation(tuple(rows))


@dataclass(frozen=True)
class Row:
    """One line of an explanation: a rule, the tensors and numbers it decides, and an example or why it is idle."""

    pattern: str
    value: Any
    tensors: int
    parameters: int
    note: str


@dataclass(frozen=True)
class Explanation:
    """What `explain` returns; `str()` is the table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        cells = [("rule", "value", "tensors", "parameters", "")]
        cells += [(r.pattern, str(r.value), f"{r.tensors:,}", f"{r.parameters:,}", r.note) for r in self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip()
            for a, b, c, d, e in cells
        )


@dataclass(frozen=True)
class _Decision:
    rules: Sequence[Rule]
    by: dict[str, int | None]  # which rule decides a path
    matched: list[list[str]]  # the paths each rule matches, decided by it or not

    @property
    def undecided(self) -> list[str]:
        return [path for path, by in self.by.items() if by is None]

    def idle_faults(self, aliases: Aliases | None) -> list[str]:
        deciding = set(self.by.values())
        idle = [i for i, rule in enumerate(self.rules) if i not in deciding and not rule.optional]
        return [f"rule {self.rules[i].pattern!r} decides nothing: {self.why_idle(i, aliases)}" for i in idle]

    def why_idle(self, i: int, aliases: Aliases | None) -> str:
        if taken := self.matched[i]:
            earlier = sorted({by for path in taken if (by := self.by[path]) is not None})
            names = ", ".join(repr(self.rules[j].pattern) for j in earlier)
            return f"shadowed, all {len(taken)} leaves it matches are decided by the earlier {names}"
        plain = _plain(self.rules[i].pattern)
        ours = aliases(plain) if aliases else None
        if ours:
            return f"absent, no path matches; {plain} is {ours} here"
        close = nearest(plain, _with_modules(self.by))
        return "absent, no path matches" + (f"; nearest: {', '.join(close)}" if close else "")


def _decide(rules: Sequence[Rule], leaves: Mapping[str, Any]) -> _Decision:
    patterns = _compiled(rules)
    matched = [[path for path in leaves if pattern.fullmatch(path)] for pattern in patterns]
    by: dict[str, int | None] = dict.fromkeys(leaves)
    for i in reversed(range(len(rules))):  # the first match wins, so it is written last
        by.update(dict.fromkeys(matched[i], i))
    return _Decision(rules, by, matched)


def _rule(rule: Rule | tuple[str, Any], i: int) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str):
        return Rule(*rule)
    raise InputError(f"rule {i} must be a pair (pattern, value), not {rule!r}")


def _compiled(rules: Iterable[Rule]) -> list[re.Pattern[str]]:
    patterns, faults = [], []
    for rule in rules:
        try:
            patterns.append(re.compile(rule.pattern))
        except re.error as e:
            faults.append(f"rule {rule.pattern!r} is not a regular expression: {e}")
    if faults:
        raise InputError("\n".join(faults))
    return patterns


def _uncovered(undecided: Sequence[str], total: int) -> str:
    shown = ", ".join(undecided[:5]) + (" …" if len(undecided) > 5 else "")
    return f"no rule decides {len(undecided)} of {total} leaves: {shown} (add a rule, or give a default)"


def _plain(pattern: str) -> str:
    """The pattern with its regular-expression marks taken out, to compare it with names."""
    text = re.sub(r"\\(.)", r"\1", re.sub(r"\(\?[:!=<]+|\[\^?|\.[*+]\??|\\d[+*]?", "", pattern))
    return re.sub(r"[()\[\]|^$?*+]", "", text).strip("/.")


def _with_modules(leaves: Iterable[str]) -> list[str]:
    """Paths and the modules they lie in: a pattern may have meant either."""
    found: dict[str, None] = {}
    for path in leaves:
        found[path] = None
        while "/" in path:
            path = path.rpartition("/")[0]
            found[path] = None
    return list(found)


def _size(leaf: Any) -> int:
    size = getattr(leaf, "size", None)
    if size is None:
        return 1
    return int(size)
