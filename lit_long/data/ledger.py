"""The ledger: which tokens of which document were really delivered, written as they go out.

One JSON line per micro-batch and rank: step, rows as [source, document, first token, one past the last]. A run that was
killed delivers the steps after its last checkpoint again; reading keeps the later delivery of each step only. So the
ledger of a run in pieces, on any number of ranks, can be compared with that of an uninterrupted run.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lit_long.data.mixture import Part
from lit_long.data.packing.row import Row
from lit_long.errors import UserError

Span = tuple[str, int, int, int]  # source, document, first token, one past the last


class Ledger:
    """Writes what one rank delivers.

    Args:
        folder: where the files go; each start of a run adds one a rank.
        parts: the plan's parts, for the names of sources.
        first_step: step at which this run starts.
        rank: data-parallel rank.
    """

    def __init__(self, folder: str | Path, parts: Iterable[Part], *, first_step: int, rank: int) -> None:
        self.names = [part.name for part in parts]
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        attempt = 0
        while True:
            path = folder / f"from-{first_step:09d}-{attempt:04d}-rank-{rank:05d}.jsonl"
            try:
                self._file = path.open("x", encoding="utf-8")
                return
            except FileExistsError:  # an earlier start at the same step
                attempt += 1

    def write(self, step: int, rows: Iterable[Row]) -> None:
        """Note one micro-batch."""
        spans = [[self.names[row.part], *piece] for row in rows for piece in row.pieces.tolist()]
        self._file.write(json.dumps({"step": step, "spans": spans}) + "\n")
        self._file.flush()


def read_ledger(folder: str | Path, *, steps: int | None = None) -> Counter[Span]:
    """Delivered spans of a run, each with the number of times that it was delivered.

    Args:
        folder: a ledger's folder.
        steps: only steps below this number.

    Raises:
        UserError: no ledger there.
    """
    starts: dict[tuple[int, int], list[Path]] = {}
    for file in sorted(Path(folder).glob("from-*-rank-*.jsonl")):
        first, attempt = file.name.split("-")[1:3]
        starts.setdefault((int(first), int(attempt)), []).append(file)
    if not starts:
        raise UserError(f"{folder}: no ledger here; set data.ledger to write one")
    order = _in_time(starts)
    found: Counter[Span] = Counter()
    for number, start in enumerate(order):
        redone = min((later[0] for later in order[number + 1 :]), default=None)
        for file in starts[start]:
            for entry in _entries(file):
                step = entry["step"]
                if (redone is None or step < redone) and (steps is None or step < steps):
                    found.update((str(s[0]), *s[1:]) for s in entry["spans"])
    return found


def _in_time(starts: dict[tuple[int, int], list[Path]]) -> list[tuple[int, int]]:
    """Starts of the run in the order in which they happened: by time, as a run may go back to an older checkpoint."""
    return sorted(starts, key=lambda start: (min(f.stat().st_mtime_ns for f in starts[start]), start))


def _entries(file: Path) -> Iterable[Any]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):  # a killed run may leave half a line
                yield json.loads(line)
