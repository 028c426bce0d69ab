"""How llama2.c encodes a text: greedily, the best pair at a time. The oracle of the tests of its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence


def encode(pieces: Sequence[tuple[str, float]], text: str) -> list[int]:
    """The ids of a text behind the begin token; `pieces` are (text, score) in the order of their ids."""
    ids: dict[str, int] = {}
    for i, (piece, _) in enumerate(pieces):
        ids.setdefault(piece, i)
    tokens = [1]
    if text:
        tokens.append(ids[" "])
    for character in text:
        if character in ids:
            tokens.append(ids[character])
        else:
            tokens += [byte + 3 for byte in character.encode("utf-8")]
    while True:
        best, at, found = -1e10, -1, -1
        for i in range(len(tokens) - 1):
            merged = ids.get(pieces[tokens[i]][0] + pieces[tokens[i + 1]][0])
            if merged is not None and pieces[merged][1] > best:
                best, at, found = pieces[merged][1], i, merged
        if at < 0:
            return tokens
        tokens[at : at + 2] = [found]
