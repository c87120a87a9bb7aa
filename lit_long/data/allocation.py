"""Which part of a mixture the n-th draw comes from, and how many it gave before: exact, in O(parts), without state.

The parts are a chain: of n draws the first part has L(n) = floor(n * w / (sum of weights) + 1/2), the rest of the chain
the other n - L(n), and so on. L grows by 0 or 1 with n, so draw n belongs to the first part where L(n + 1) > L(n). Each
part is within about one draw of its exact share at every n: shares hold from the first step on, not on average.
"""

from collections.abc import Sequence
from itertools import accumulate

_SCALE = 1 << 40


class Allocation:
    """Draws divided over parts in proportion to ``weights`` (any positive numbers)."""

    def __init__(self, weights: Sequence[float]) -> None:
        total = sum(weights)
        self._weights = [max(1, round(weight / total * _SCALE)) for weight in weights]
        self._rest = list(accumulate(reversed(self._weights)))[::-1]  # weight of the part and all after it

    def counts(self, draws: int) -> list[int]:
        """Draws that each part has among the first ``draws``."""
        counts = []
        for weight, rest in zip(self._weights, self._rest, strict=True):
            taken = _share(draws, weight, rest)
            counts.append(taken)
            draws -= taken
        return counts

    def locate(self, draw: int) -> tuple[int, int]:
        """Part of the ``draw``-th draw (0-based), and the number of draws which that part had before."""
        for part, (weight, rest) in enumerate(zip(self._weights, self._rest, strict=True)):
            taken = _share(draw, weight, rest)
            if _share(draw + 1, weight, rest) > taken:
                return part, taken
            draw -= taken
        raise AssertionError("the last part takes every draw that comes to it")


def _share(draws: int, weight: int, rest: int) -> int:
    return (2 * draws * weight + rest) // (2 * rest) if weight < rest else draws
