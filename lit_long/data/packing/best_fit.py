"""Best-fit decreasing bin packing of document lengths into sequences."""

from bisect import bisect_left, insort

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


def cut(pieces: Int64, capacity: int) -> tuple[Int64, Int64]:
    """Cut pieces longer than a sequence into full sequences and a remainder.

    Args:
        pieces: int64 [n, 3]: document, first token, one past the last.
        capacity: tokens per sequence.

    Returns:
        the pieces of exactly ``capacity`` tokens, and the shorter ones.
    """
    document, begin, end = pieces.T
    whole = (end - begin) // capacity
    which = np.repeat(np.arange(len(pieces)), whole)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(whole) - whole, whole)
    first = begin[which] + nth * capacity
    full = np.stack([document[which], first, first + capacity], axis=1)
    rest = np.stack([document, begin + whole * capacity, end], axis=1)
    return full, rest[rest[:, 1] < rest[:, 2]]


def best_fit(pieces: Int64, capacity: int) -> list[Int64]:
    """Rows of at most ``capacity`` tokens: each piece, longest first, goes where it leaves the least room.

    Args:
        pieces: int64 [n, 3], none longer than ``capacity``.
        capacity: tokens per row.

    Returns:
        for each row, its pieces int64 [k, 3], longest first. Ties are broken by the order given, so the result is a
        pure function of the input.
    """
    lengths = pieces[:, 2] - pieces[:, 1]
    order = np.argsort(-lengths, kind="stable")
    rows: list[list[int]] = []
    # room left in each open row, smallest first, as room * scale + row
    scale = max(1, len(pieces))
    open_rows: list[int] = []
    for index, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        place = bisect_left(open_rows, length * scale)
        if place == len(open_rows):
            room, row = capacity, len(rows)
            rows.append([])
        else:
            room, row = divmod(open_rows.pop(place), scale)
        rows[row].append(index)
        if room > length:
            insort(open_rows, (room - length) * scale + row)
    return [pieces[row] for row in rows]
