"""The most memory that this process has had resident, whatever started it."""

import resource
import sys
from pathlib import Path


def peak_resident() -> int:
    """Bytes that this process has had resident at most.

    Linux hands ``ru_maxrss`` over from the process that started this one (a launcher, a notebook), so a child of a big
    process would show that one's peak; ``VmHWM`` begins anew with each program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
