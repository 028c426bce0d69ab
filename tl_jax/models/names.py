"""The two-way map between a family's foreign tensor names and our canonical paths.

A family declares it as data, one `Entry` a tensor and `{i}` for the layer's number:

    NAMES = NameMap(
        entries=(
            Entry("encoder.layer.{i}.attention.self.query.weight", "layers_{i}/attention/query/kernel", "transpose"),
            Entry("embeddings.LayerNorm.weight", "embeddings/norm/scale", older=("embeddings.LayerNorm.gamma",)),
        ),
        classifier=dense("classifier", "head"),
        prefixes=("bert.",),
        ignored=(r"embeddings\\.position_ids",),
    )
    NAMES.to_canonical("bert.encoder.layer.3.attention.self.query.weight")
    # ("layers_3/attention/query/kernel", "transpose")

Every generation of names is read; which one a file used is for the reader to remember (`ModelInfo.names`), so that
writing gives the same names back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from tl_jax.trees import STATISTICS

Transform = Literal["copy", "transpose", "conv", "row"]

# Stages a task may leave out of a chain, so that a file may hold tensors for one that the model lacks.
ENDS = ("pooler", "head")


@dataclass(frozen=True)
class Entry:
    """One tensor under both names.

    `transform` says how the foreign layout becomes ours: "copy"; "transpose" for dense kernels, `[out, in]` to
    `[in, out]`; "conv" for convolutions, `[out, in, *space]` to `[*space, in, out]`; "row" for what has a leading axis
    of 1, which we leave out. `older` are other spellings of the foreign name, found in files or models of other
    generations, or of other libraries.
    """

    foreign: str
    canonical: str
    transform: Transform = "copy"
    older: tuple[str, ...] = ()


def dense(foreign: str, ours: str, *older: str) -> tuple[Entry, Entry]:
    """The entries of a dense layer; `older` are other names of it."""
    return (
        Entry(f"{foreign}.weight", f"{ours}/kernel", "transpose", tuple(f"{name}.weight" for name in older)),
        Entry(f"{foreign}.bias", f"{ours}/bias", older=tuple(f"{name}.bias" for name in older)),
    )


def convolution(foreign: str, ours: str, *older: str) -> Entry:
    """The entry of a convolution without bias; `older` are other names of it."""
    return Entry(f"{foreign}.weight", f"{ours}/kernel", "conv", tuple(f"{name}.weight" for name in older))


def norm(foreign: str, ours: str) -> tuple[Entry, Entry]:
    """The entries of a layer norm; early files call its scale gamma and its bias beta."""
    return (
        Entry(f"{foreign}.weight", f"{ours}/scale", older=(f"{foreign}.gamma",)),
        Entry(f"{foreign}.bias", f"{ours}/bias", older=(f"{foreign}.beta",)),
    )


# What torch calls the parts of a batch norm, and we.
_BATCH_NORM = (
    ("weight", "{}/scale"),
    ("bias", "{}/bias"),
    ("running_mean", f"{STATISTICS}/{{}}/mean"),
    ("running_var", f"{STATISTICS}/{{}}/var"),
)


def batch_norm(foreign: str, ours: str, *older: str) -> tuple[Entry, ...]:
    """The entries of a batch norm, its statistics among them; `older` are other names of it."""
    return tuple(
        Entry(f"{foreign}.{part}", path.format(ours), older=tuple(f"{name}.{part}" for name in older))
        for part, path in _BATCH_NORM
    )


class _Known(NamedTuple):
    """An entry, whether it is one of the backbone's, and the numbers by which its template is the name looked up."""

    entry: Entry
    inside: bool
    numbers: dict[str, str]


class _Index:
    """Entries by one of their names: those without a number by equality, for a deep net has thousands of them."""

    def __init__(self, templates: Iterable[tuple[str, Entry, bool]]) -> None:
        self._exact: dict[str, list[_Known]] = {}
        self._patterns: list[tuple[re.Pattern[str], Entry, bool]] = []
        for template, entry, inside in templates:
            if "{" in template:
                self._patterns.append((_pattern(template), entry, inside))
            else:
                self._exact.setdefault(template, []).append(_Known(entry, inside, {}))

    def find(self, name: str) -> Iterator[_Known]:
        yield from self._exact.get(name, ())
        for pattern, entry, inside in self._patterns:
            if found := pattern.fullmatch(name):
                yield _Known(entry, inside, found.groupdict())


@dataclass(frozen=True)
class NameMap:
    """The names of a family, both ways.

    `entries` are the backbone's, which any of `prefixes` may precede. `classifier` are what the file of a classifier,
    or of a language model, has beside the backbone, never behind a prefix ("bert.pooler.dense", but "classifier"); for
    a path in both, a classifier's file has the latter name. `ignored` are regular expressions for whole names (prefix
    taken off) that a file may hold beside the parameters and that are carried over unread. `ties` are (name, our path):
    names under which a file may hold the tensor of that path a second time. Raises `ValueError` when two entries claim
    one name, or two of one kind one path.
    """

    entries: tuple[Entry, ...]
    classifier: tuple[Entry, ...] = ()
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    ties: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        foreign = [name for e in (*self.entries, *self.classifier) for name in (e.foreign, *e.older)]
        for names in (foreign, *([e.canonical for e in kind] for kind in (self.entries, self.classifier))):
            if twice := sorted(name for name, times in Counter(names).items() if times > 1):
                raise ValueError(f"named by two entries: {', '.join(twice)}")

    def to_canonical(self, foreign: str) -> tuple[str, Transform] | None:
        """Our path of a foreign name and how its layout becomes ours; None for a name that is not the family's."""
        for bare in self._without_prefix(foreign):
            for entry, inside, numbers in self._readers.find(bare):
                if inside or bare == foreign:
                    return entry.canonical.format(**numbers), entry.transform
        return None

    def to_foreign(self, path: str, prefix: str = "", *, classifier: bool = False) -> tuple[str, Transform] | None:
        """The present foreign name of our path, the backbone's under `prefix`; None for a path not of the family.

        A path that has two names has the one of the `classifier`'s file, if that is asked for.
        """
        asked_first = sorted(self._writers.find(path), key=lambda known: known.inside == classifier)
        for entry, inside, numbers in asked_first:
            return (prefix if inside else "") + entry.foreign.format(**numbers), entry.transform
        return None

    def spellings(self, path: str) -> tuple[str, ...]:
        """Every foreign name of our path without a prefix, those of other generations too; none for another's path."""
        return tuple(
            name.format(**numbers)
            for entry, _, numbers in self._writers.find(path)
            for name in (entry.foreign, *entry.older)
        )

    def is_classifiers(self, foreign: str) -> bool:
        """Whether a name is one of those that a classifier's file has beside the backbone."""
        return any(not inside for _, inside, _ in self._readers.find(foreign))

    def gives_way(self, foreign: str, present: Container[str]) -> bool:
        """Whether a file whose names are `present` has the same path under a classifier's name, which is then read."""
        known = self.to_canonical(foreign)
        if known is None or self.is_classifiers(foreign):
            return False
        theirs = self.to_foreign(known[0], classifier=True)
        return theirs is not None and self.is_classifiers(theirs[0]) and theirs[0] in present

    def prefix(self, foreign: str) -> str:
        """The one of `prefixes` that a name of the family carries; "" for none."""
        known = self.to_canonical(foreign) is not None or self.is_ignored(foreign)
        return next((p for p in self.prefixes if known and foreign.startswith(p)), "")

    def is_ignored(self, foreign: str) -> bool:
        """Whether a file may hold this name beside the parameters."""
        return any(re.fullmatch(rule, bare) for bare in self._without_prefix(foreign) for rule in self.ignored)

    def alias(self, text: str) -> str | None:
        """What a foreign name, or some whole components of one, is called here; None for anything else.

        "encoder.layer.3" is "layers_3", "attention.self.query" is "layers_i/attention/query". For error messages.
        """
        text = text.replace("/", ".").strip(".")
        text = next((text.removeprefix(p) for p in self.prefixes if text.startswith(p)), text)
        wanted = text.split(".")
        found = [ours for entry in (*self.entries, *self.classifier) for ours in _aliases(entry, wanted)]
        if not found:
            return None
        inner = not any(at_start for _, at_start in found)
        ours = "/".join(_common([path.split("/") for path, at_start in found if inner or at_start]))
        vague = inner and "/" not in ours and not re.search(r"\d", ours)  # "output" says nothing about the place
        known = f"{ours}/".startswith(text.replace(".", "/") + "/")  # already a name of ours
        return None if vague or known or not ours else ours

    def _without_prefix(self, foreign: str) -> Iterator[str]:
        yield foreign
        yield from (foreign.removeprefix(prefix) for prefix in self.prefixes if foreign.startswith(prefix))

    @cached_property
    def _readers(self) -> _Index:
        return _Index((name, entry, inside) for entry, inside in self._all for name in (entry.foreign, *entry.older))

    @cached_property
    def _writers(self) -> _Index:
        return _Index((entry.canonical, entry, inside) for entry, inside in self._all)

    @property
    def _all(self) -> Iterator[tuple[Entry, bool]]:
        yield from ((entry, True) for entry in self.entries)
        yield from ((entry, False) for entry in self.classifier)


def _pattern(template: str) -> re.Pattern[str]:
    """The template with a number in place of each `{i}`; written as people write numbers, so names stay two-way."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>0|[1-9][0-9]*)", re.escape(template)))


def _aliases(entry: Entry, wanted: list[str]) -> Iterator[tuple[str, bool]]:
    """Our path of the entry wherever `wanted` are consecutive components of its foreign name, and if from its start."""
    for name in (entry.foreign, *entry.older):
        parts = name.split(".")
        for at in range(len(parts) - len(wanted) + 1):
            ours = entry.canonical
            if at + len(wanted) < len(parts):  # a module, which has the parameters and the statistics
                ours = ours.removeprefix(f"{STATISTICS}/").rpartition("/")[0]
            for part, word in zip(parts[at:], wanted, strict=False):
                if part.startswith("{") and word.isdecimal():
                    ours = ours.replace(part, word)
                elif part != word:
                    break
            else:
                yield re.sub(r"[{}]", "", ours), at == 0


def _common(paths: list[list[str]]) -> list[str]:
    """The components all paths begin with."""
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared
