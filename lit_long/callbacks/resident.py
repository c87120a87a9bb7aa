"""Resident memory of this process, now and at its highest, whatever started it."""

import resource
import sys
from pathlib import Path


def peak_resident() -> int:
    """Bytes that this process has had resident at most.

    Linux hands ``ru_maxrss`` over from the process that started this one (a launcher, a notebook), so a child of a big
    process would show that one's peak; ``VmHWM`` begins anew with each program.
    """
    found = _status("VmHWM")
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident() -> int:
    """Bytes that this process has resident now; where the system does not say, the most it has had."""
    found = _status("VmRSS")
    return peak_resident() if found is None else found


def _status(key: str) -> int | None:
    """Bytes of a line of Linux' /proc/self/status."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    sizes = [line.split()[1] for line in status.read_text().splitlines() if line.startswith(f"{key}:")]
    return int(sizes[0]) * 1024 if sizes else None
