"""Which part of a mixture the n-th draw comes from, and how many it gave before: exact, in O(log parts), without state.

The parts are the leaves of a binary tree. Of n draws, a node's left half has L(n) = floor(n * w / W + 1/2), w and W
being the weights of its left half and of all its parts; the right half has the other n - L(n). L grows by 0 or 1 with
n, so draw n goes left where L(n + 1) > L(n). Each level adds at most half a draw of error: shares hold from the first
step on, not on average.
"""

from collections.abc import Sequence
from itertools import accumulate

_SCALE = 1 << 40


class Allocation:
    """Draws divided over parts in proportion to ``weights`` (any positive numbers)."""

    def __init__(self, weights: Sequence[float]) -> None:
        total = sum(weights)
        scaled = [max(1, round(weight / total * _SCALE)) for weight in weights]
        self._parts = len(scaled)
        self._before = [0, *accumulate(scaled)]

    def counts(self, draws: int) -> list[int]:
        """Draws that each part has among the first ``draws``."""
        return self._divide(draws, 0, self._parts)

    def _divide(self, draws: int, first: int, stop: int) -> list[int]:
        if stop - first == 1:
            return [draws]
        left = self._left(draws, first, stop)
        middle = (first + stop) // 2
        return self._divide(left, first, middle) + self._divide(draws - left, middle, stop)

    def locate(self, draw: int) -> tuple[int, int]:
        """Part of the ``draw``-th draw (0-based), and the number of draws which that part had before."""
        first, stop = 0, self._parts
        while stop - first > 1:
            left, middle = self._left(draw, first, stop), (first + stop) // 2
            if self._left(draw + 1, first, stop) > left:
                draw, stop = left, middle
            else:
                draw, first = draw - left, middle
        return first, draw

    def _left(self, draws: int, first: int, stop: int) -> int:
        """Draws of the left half of parts first..stop-1, rounded to the nearest."""
        left = self._before[(first + stop) // 2] - self._before[first]
        total = self._before[stop] - self._before[first]
        return (2 * draws * left + total) // (2 * total)
