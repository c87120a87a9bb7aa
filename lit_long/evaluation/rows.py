"""Raw rows of an evaluation as JSON lines: one row an example, written as it is finished.

A run that was killed goes on behind its last whole row. The first line of a file is its header, whose key says what the
rows belong to (model files, prompts, settings); rows of another key are never mixed in, the file is begun again.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any


class RowFile:
    """Rows of one measurement, a context manager that appends; each row has an ``id`` that is unique in the file.

    Args:
        path: the ``.jsonl`` file; its folder is made.
        header: plain values with a ``key``.
        sync: whether each row is forced to disk; not needed for a file that is moved into place when it is whole.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, sync: bool = True) -> None:
        self.path, self._header, self._sync = path, header, sync
        self.rows: dict[str, dict[str, Any]] = {}
        """Finished rows by id, those of an earlier run too."""

    def __enter__(self) -> "RowFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0  # bytes of whole lines that belong to this key
        lines = list(_whole_lines(self.path)) if self.path.is_file() else []
        if lines and lines[0][0].get("key") == self._header["key"]:
            self.rows = {row["id"]: row for row, _ in lines[1:]}
            whole = lines[-1][1]
        self._file = self.path.open("r+b" if self.path.is_file() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._append(self._header)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @staticmethod
    def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """Header and rows of a file, ``None`` where it has no whole line."""
        lines = [value for value, _ in _whole_lines(path)]
        return (lines[0], lines[1:]) if lines else None

    def add(self, row: dict[str, Any]) -> None:
        """Append a finished row; it is on disk when this returns."""
        assert row["id"] not in self.rows, row["id"]
        self._append(row)
        self.rows[row["id"]] = row

    def _append(self, value: dict[str, Any]) -> None:
        self._file.write((json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode())
        if self._sync:
            self._file.flush()
            os.fsync(self._file.fileno())


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The values of a file's whole lines, each with the byte it ends at; stops at the first that was cut off."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(value, dict):
                return
            end += len(line)
            yield value, end
