"""What was asked and what came of it: one JSON line a question, on the disk before the next is begun by that worker.

A line is only ever appended. A run that was killed may leave half a line at the end, which the next run cuts off; every
whole line counts, so no accepted pair is lost or made twice.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from lit_long.data.corpus_writer import write_json
from lit_long.data.prepare.facts import differences
from lit_long.errors import UserError
from lit_long.synthesis.config import Shard

Record = dict[str, Any]
FOLDER = ".journal"
"""In the output folder."""
DONE = ("accepted", "rejected", "skipped")  # outcomes that are not asked again; "failed" is


class Journal:
    """The journal of one shard.

    Args:
        folder: of all shards' journals.
        shard: whose.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.path = folder / f"{shard.index:05d}-of-{shard.count:05d}.jsonl"
        self._file: BinaryIO | None = None

    def open(self) -> dict[str, Any]:
        """Mend the end, open for appending, and return question key -> outcome of the last line about it."""
        outcomes = {}
        with self.path.open("a+b") as file:
            file.seek(0)
            whole = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                record = _parsed(line, self.path)
                outcomes[str(record["key"])] = record["outcome"]
                whole += len(line)
            file.truncate(whole)
        self._file = self.path.open("ab")
        os.fsync(self._file.fileno())
        return outcomes

    def append(self, record: Record) -> None:
        """Write a line; it is on the disk when this returns.

        Raises:
            UserError: it cannot be written, as on a full disk; the lines before it are kept.
        """
        assert self._file is not None
        try:
            self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}). What was done before is kept: mend that (free "
                f"space) and give the same command again"
            ) from error

    def close(self) -> None:
        """Close the file; what could not be written is given up."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


def begin(folder: Path, work: dict[str, Any], *, only_look: bool = False) -> None:
    """Begin the work in a folder, or go on with it if it is the same.

    Args:
        folder: of the journals.
        work: what decides the result: settings, inputs, tokenizer, ...
        only_look: compare with what is there, and begin nothing.

    Raises:
        UserError: other work is there; says what differs.
    """
    file = folder / "work.json"
    if not file.is_file():
        if only_look:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, work)
    try:
        found = differences(json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(work)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: damaged ({error}); choose another output, or remove {folder}") from error
    if found:
        raise UserError(
            f"{folder.parent}: was begun with other settings or documents: {'; '.join(found)}. To go on with it, use "
            f"those again; else choose another output (or remove {folder}, and with it what was made)"
        )


def begun(folder: Path) -> dict[str, Any]:
    """What :func:`begin` wrote there.

    Raises:
        UserError: nothing was begun there, or the file is damaged.
    """
    try:
        work: dict[str, Any] = json.loads((folder / "work.json").read_text(encoding="utf-8"))
        work["tokenizer"]
    except FileNotFoundError as error:
        raise UserError(f"{folder.parent}: no run of lit-long synthesize was begun there") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'work.json'}: damaged ({error}); remove {folder} to begin anew") from error
    return work


def journals(folder: Path) -> list[Path]:
    """The journals in a folder, by shard."""
    return sorted(folder.glob("*-of-*.jsonl"))


def read(path: Path) -> Iterator[tuple[int, Record]]:
    """Whole lines of a journal with their place in bytes; of a question with several lines (it failed), the last."""
    last = {}
    for at, record in _lines(path):
        last[record["key"]] = at
    for at, record in _lines(path):
        if last[record["key"]] == at:
            yield at, record


def _lines(path: Path) -> Iterator[tuple[int, Record]]:
    at = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield at, _parsed(line, path)
            at += len(line)


def _parsed(line: bytes, path: Path) -> Record:
    try:
        record: Record = json.loads(line)
        record["key"], record["outcome"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); get it from a backup, or remove it to make it again") from error
    return record
