"""Several examples in one row: which row each goes to, and how long the rows are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]

ATTENTION = 512  # the length of row at which attention costs as much as all else that is done at a position


class Layout(NamedTuple):
    """Rows of `width` positions: `slots` int64 [rows, slots] says which example lies where, -1 for none."""

    width: int
    slots: Places

    @property
    def cost(self) -> float:
        """What a step of it costs, in positions."""
        return len(self.slots) * float(row_cost(self.width))


def row_cost(width: Any) -> Any:
    """What a row of so many positions costs: all that is done at each, and attention, which sees the whole row."""
    return width * (1 + width / ATTENTION)


def best_fit(lengths: npt.NDArray[Any], width: int, slots: int | None = None) -> list[list[int]]:
    """The examples of each row, at most `slots`: best-fit decreasing (Johnson 1973).

    The longest example goes first, each into the row with the least room that is enough; those of length 0 go nowhere.
    No length may exceed `width`. Without `slots` at most 11/9 of the fewest rows possible, and 4.
    """
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(width + 1)]  # by room: the rows that have it
    for i in np.argsort(-np.asarray(lengths), kind="stable"):
        length = int(lengths[i])
        if not length:
            break
        room = next((room for room in range(length, width) if open_rows[room]), width)
        if room < width:
            row = open_rows[room].pop()
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(int(i))
        if len(rows[row]) != slots:
            open_rows[room - length].append(row)
    return rows


def grid(rows: list[list[int]], shape: tuple[int, int]) -> Places:
    """Rows of examples as int64 `shape`, -1 where there is none."""
    made = np.full(shape, -1, np.int64)
    for row, members in enumerate(rows):
        made[row, : len(members)] = members
    return made


def layouts(lengths: npt.NDArray[Any], parts: int, divisor: int) -> list[Layout]:
    """The cheapest layout for each of `parts` micro-batches, all of one shape; example i is in number i mod `parts`.

    The width is a multiple of 8 that holds the longest, up to twice that; the number of rows, one of `divisor`.
    """
    longest = -(-int(max(lengths)) // 8) * 8
    ways = (_of_width(lengths, parts, divisor, width) for width in range(longest, 2 * longest + 1, 8))
    return min(ways, key=lambda way: way[0].cost)


def fitted(lengths: npt.NDArray[Any], parts: int, divisor: int, like: Layout) -> list[Layout] | None:
    """Layouts of these lengths with the shape of `like`, or where that is too small at least its width.

    So that smaller data sets share what is compiled for a larger one. None where the longest does not fit.
    """
    if max(lengths) > like.width:
        return None
    return _of_width(lengths, parts, divisor, like.width, like.slots.shape)


def _of_width(
    lengths: npt.NDArray[Any], parts: int, divisor: int, width: int, least: tuple[int, ...] = (1, 1)
) -> list[Layout]:
    found = [best_fit(lengths[part::parts], width) for part in range(parts)]
    height = max(least[0], *map(len, found))
    shape = (-(-height // divisor) * divisor, max(least[1], *(len(row) for rows in found for row in rows)))
    return [
        Layout(width, grid([[i * parts + part for i in row] for row in rows], shape)) for part, rows in enumerate(found)
    ]
