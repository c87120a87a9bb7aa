"""Rate limits without bursts: each request books the next free moment of a common clock."""

import asyncio
import time


class Pace:
    """Keeps to so many units a minute; also holds everybody back when the server says wait.

    Args:
        per_minute: units (requests, tokens) a minute; None: no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 0.0 if per_minute is None else 60 / per_minute
        self._free = 0.0

    async def wait(self, units: float = 1.0) -> None:
        """Return when ``units`` may be used."""
        now = time.monotonic()
        at = max(self._free, now)
        self._free = at + units * self._seconds
        if at > now:
            await asyncio.sleep(at - now)

    def give_back(self, units: float) -> None:
        """Units that were booked and not used."""
        self._free -= units * self._seconds

    def hold(self, seconds: float) -> None:
        """Nobody begins for so long."""
        self._free = max(self._free, time.monotonic() + seconds)
