"""The folder that a cleaning works in: what lies where, which inputs it belongs to, and one run at a time."""

import fcntl
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zstandard

from lit_long.data.cleaning.config import CleanConfig
from lit_long.data.sources import Item, Source, describe_inputs, plan_items
from lit_long.errors import UserError

ITEM_BYTES = 64 << 20  # raw text of a task: seconds to a few minutes of work
MAX_ITEMS = 100_000  # file names have five digits, as datatrove's
SETTINGS, REPORT, EXCLUDED = "settings.json", "report.json", "excluded.jsonl"
_TEMPORARY = ("items", "notes", "filtered", "unique", "exact", "near", "dropped", "stayed", "counts")


@dataclass(frozen=True)
class Work:
    """One cleaning: what is read, what is asked for, and where. Plain values, so that it travels to other machines."""

    sources: tuple[Source, ...]
    config: CleanConfig
    folder: Path
    max_document_bytes: int
    max_bad_rows: int = 0
    must_keep: frozenset[str] = frozenset()
    item_bytes: int = ITEM_BYTES

    def settings(self) -> dict[str, Any]:
        """What decides the result, as plain JSON."""
        return {
            "clean": asdict(self.config),
            "inputs": describe_inputs(self.sources),
            "max_document_bytes": self.max_document_bytes,
            "item_bytes": self.item_bytes,
            "must_keep": sorted(self.must_keep),
        }

    @property
    def report(self) -> dict[str, Any] | None:
        """The finished report, if this cleaning is done."""
        path = self.folder / REPORT
        report: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        return report

    def begin(self) -> None:
        """Make the folder, or go on in it.

        Raises:
            UserError: it holds something else, or the work on other inputs or settings.
        """
        settings, path = json.loads(json.dumps(self.settings())), self.folder / SETTINGS
        if path.is_file():
            before = json.loads(path.read_text())
            if changed := [key for key in settings if before.get(key) != settings[key]]:
                raise UserError(
                    f"{self.folder}: holds the cleaning of other sources or settings ({', '.join(changed)} differ); "
                    f"remove it, or choose another folder"
                )
            return
        if self.folder.exists() and any(entry.name != "lock" for entry in self.folder.iterdir()):
            raise UserError(f"{self.folder}: exists and is no cleaning; choose another folder or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(settings, indent=1))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One local run at a time; the kernel lets go when the process ends, however it ends.

        Raises:
            UserError: another run works here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{self.folder}: another run is cleaning here; wait for it, or stop it") from None
            yield

    def plan(self) -> int:
        """Write the items to be read to files, one a task, and return how many; done once, in the calling process.

        Compressed sources are unpacked here, once, whatever the number of tasks; the items are packed again.

        Raises:
            UserError: a source that cannot be read, or more items than datatrove's file names can count.
        """
        done = self.folder / "items" / "count"
        if done.is_file():
            return int(done.read_text())
        done.parent.mkdir(exist_ok=True)
        pack = zstandard.ZstdCompressor(level=1)
        count = 0
        items = plan_items(self.sources, item_bytes=self.item_bytes, max_document_bytes=self.max_document_bytes)
        for count, item in enumerate(items, 1):
            if count > MAX_ITEMS:
                limit = MAX_ITEMS * self.item_bytes / 1e12
                raise UserError(f"clean: more than {limit:.1f} TB of text; clean it in several parts")
            (done.parent / f"{item.number:05d}").write_bytes(pack.compress(pickle.dumps(item)))
        if not count:
            raise UserError("clean: the sources are empty")
        write_whole(done, str(count))
        return count

    def item(self, number: int) -> Item:
        """One item of :meth:`plan`."""
        packed = (self.folder / "items" / f"{number:05d}").read_bytes()
        item: Item = pickle.loads(zstandard.ZstdDecompressor().decompress(packed))
        return item

    def tidy(self) -> None:
        """Remove what only the stages between needed."""
        for name in _TEMPORARY:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either there whole or not at all."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def text_key(text: str) -> str:
    """SHA-256 (hex) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_bad_rows(rows: list[dict[str, str]], limit: int) -> None:
    """Refuse more bad rows than allowed.

    Raises:
        UserError: names the first one.
    """
    if len(rows) > limit:
        raise UserError(
            f"{rows[0]['place']}: {rows[0]['message']} [{len(rows)} bad row(s) found so far, {limit} allowed "
            f"(max_bad_rows). Mend them, or allow more with --max-bad-rows N: they are then left out and named]"
        )
