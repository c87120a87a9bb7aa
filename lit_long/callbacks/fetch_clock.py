"""Seconds that training waits for data, from Lightning's own profiling points."""

import time
from typing import Any

_FETCH = "train_dataloader_next"


class FetchClock:
    """Counts the seconds a trainer spends in fetching training batches, between :meth:`attach` and :meth:`detach`.

    Lightning tells its profiler when it starts and stops to wait for a batch; there is no hook for callbacks there. The
    trainer's profiler, whichever it is, goes on as before.
    """

    def __init__(self) -> None:
        self._seconds = self._began = 0.0
        self._profiler: Any = None

    def attach(self, trainer: Any) -> None:
        """Listen to the profiler of a Lightning ``Trainer``."""
        self.detach()
        profiler = trainer.profiler
        start, stop = profiler.start, profiler.stop

        def started(action: str) -> None:
            if action.endswith(_FETCH):
                self._began = time.perf_counter()
            start(action)

        def stopped(action: str) -> None:
            stop(action)
            if action.endswith(_FETCH):
                self._seconds += time.perf_counter() - self._began

        # on the instance: detach() only has to remove them
        profiler.start, profiler.stop = started, stopped
        self._profiler = profiler

    def detach(self) -> None:
        """Leave the profiler as it was."""
        if self._profiler is not None:
            del self._profiler.start, self._profiler.stop
            self._profiler = None

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
