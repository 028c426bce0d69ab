"""The two-way map between a family's foreign tensor names and our canonical paths.

A family declares it as data, one `Entry` a tensor and `{i}` for the layer's number:

    NAMES = NameMap(
        entries=(
            Entry("encoder.layer.{i}.attention.self.query.weight", "layers_{i}/attention/query/kernel", "transpose"),
            Entry("embeddings.LayerNorm.weight", "embeddings/norm/scale", older=("embeddings.LayerNorm.gamma",)),
        ),
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
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Transform = Literal["copy", "transpose", "conv"]

# Stages a task may leave out of a chain, so that a file may hold tensors for one that the model lacks. The prefix of a
# file's names is that of its backbone: the head lies outside of it ("bert.pooler.dense", but "classifier").
ENDS = ("pooler", "head")


@dataclass(frozen=True)
class Entry:
    """One tensor under both names.

    `transform` says how the foreign layout becomes ours: "copy"; "transpose" for dense kernels, `[out, in]` to
    `[in, out]`; "conv" for convolutions, `[out, in, *space]` to `[*space, in, out]`. `older` are spellings of the
    foreign name found in files of earlier generations.
    """

    foreign: str
    canonical: str
    transform: Transform = "copy"
    older: tuple[str, ...] = ()


@dataclass(frozen=True)
class NameMap:
    """The names of a family, both ways.

    `prefixes` may precede the names of everything but the head; none always may. `ignored` are regular expressions for
    whole names (prefix taken off) that a file may hold beside the parameters and that are carried over unread. Raises
    `ValueError` when two entries claim one name.
    """

    entries: tuple[Entry, ...]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for names in ([f for e in self.entries for f in (e.foreign, *e.older)], [e.canonical for e in self.entries]):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"named by two entries: {', '.join(twice)}")

    def to_canonical(self, foreign: str) -> tuple[str, Transform] | None:
        """Our path of a foreign name and how its layout becomes ours; None for a name that is not the family's."""
        for bare in self._without_prefix(foreign):
            for pattern, entry in self._readers:
                found = pattern.fullmatch(bare)
                if found and (bare == foreign or not _outside(entry)):
                    return entry.canonical.format(**found.groupdict()), entry.transform
        return None

    def to_foreign(self, path: str, prefix: str = "") -> tuple[str, Transform] | None:
        """The present foreign name of our path, the backbone's under `prefix`; None for a path not of the family."""
        for pattern, entry in self._writers:
            if found := pattern.fullmatch(path):
                return ("" if _outside(entry) else prefix) + entry.foreign.format(**found.groupdict()), entry.transform
        return None

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
        found = [ours for entry in self.entries for ours in _aliases(entry, wanted)]
        if not found:
            return None
        ours = "/".join(_common([path.split("/") for path, _ in found]))
        inner = not any(at_start for _, at_start in found)
        vague = inner and "/" not in ours and not re.search(r"\d", ours)  # "output" says nothing about the place
        known = f"{ours}/".startswith(text.replace(".", "/") + "/")  # already a name of ours
        return None if vague or known or not ours else ours

    def _without_prefix(self, foreign: str) -> Iterator[str]:
        yield foreign
        yield from (foreign.removeprefix(prefix) for prefix in self.prefixes if foreign.startswith(prefix))

    @cached_property
    def _readers(self) -> list[tuple[re.Pattern[str], Entry]]:
        return [(_pattern(name), entry) for entry in self.entries for name in (entry.foreign, *entry.older)]

    @cached_property
    def _writers(self) -> list[tuple[re.Pattern[str], Entry]]:
        return [(_pattern(entry.canonical), entry) for entry in self.entries]


def _outside(entry: Entry) -> bool:
    return entry.canonical.startswith("head/")


def _pattern(template: str) -> re.Pattern[str]:
    """The template with a number in place of each `{i}`; written as people write numbers, so names stay two-way."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>0|[1-9][0-9]*)", re.escape(template)))


def _aliases(entry: Entry, wanted: list[str]) -> Iterator[tuple[str, bool]]:
    """Our path of the entry wherever `wanted` are consecutive components of its foreign name, and if from its start."""
    for name in (entry.foreign, *entry.older):
        parts = name.split(".")
        for at in range(len(parts) - len(wanted) + 1):
            ours = entry.canonical if at + len(wanted) == len(parts) else entry.canonical.rpartition("/")[0]
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
