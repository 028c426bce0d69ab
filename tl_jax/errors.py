"""The user's mistakes: one exception, and the words that help out of one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave cannot be used. The message says what, where and the nearest valid choice.

    The command line prints the message without a traceback and exits with 2.
    """


def nearest(word: str, choices: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` of `choices` that look most like `word`, best first; empty when none is close."""
    return difflib.get_close_matches(str(word), [str(c) for c in choices], n=n, cutoff=0.5)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The tail of an error message: the nearest choices, or all of them when they are few, or nothing."""
    choices = [str(c) for c in choices]
    close = nearest(word, choices)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    if 0 < len(choices) <= 12:
        return "; choose from " + ", ".join(choices)
    return ""
