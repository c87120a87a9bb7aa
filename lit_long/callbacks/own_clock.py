"""How long a rank works in a step before it has to wait for the others."""

import time

import torch


class OwnClock:
    """Seconds from the start of a step to its last backward pass: a rank's own work, without waiting for others.

    That is so under data parallelism that exchanges gradients in a step's last backward pass (DDP). Sharded parameters
    (FSDP2) are gathered in each forward pass, too, where the ranks wait for each other; the times then lie closer
    together than the ranks' work. On a GPU the time is that of the device's own stream.
    """

    def __init__(self) -> None:
        self._began = self._ended = 0.0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    def start(self, device: torch.device) -> None:
        """A step begins."""
        self._began = self._ended = time.perf_counter()
        self._events = None
        if device.type == "cuda":
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            self._events[0].record()
            self._events[1].record()

    def mark(self) -> None:
        """A backward pass is about to begin; the last mark of a step counts."""
        self._ended = time.perf_counter()
        if self._events is not None:
            self._events[1].record()

    def seconds(self) -> float:
        """From the start to the last mark; on a GPU, waits until the device has come there."""
        if self._events is None:
            return self._ended - self._began
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000
