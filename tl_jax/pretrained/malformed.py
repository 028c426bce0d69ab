"""What is wrong with a file, before it is said which file, and how a text of the file's choosing is shown."""

from __future__ import annotations

_SHOWN = 100


class Malformed(ValueError):
    """The file is not what it should be; the message goes on after the file's name."""


def plain(text: str) -> str:
    """A text of the file's choosing as it is, where it can be: `shown` if it is endless, or not for printing."""
    return text if text.isprintable() and 0 < len(text) <= _SHOWN else shown(text)


def shown(text: str) -> str:
    """A text of the file's choosing as a message may show it: quoted, in plain ASCII, not endless."""
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
