"""Keeps count while items are done: progress, bad rows against their limit, doubled ids."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.prepare.config import Progress
from lit_long.data.prepare.document_ids import IdHashes
from lit_long.data.prepare.item_writer import Bad, Batch, Message
from lit_long.data.prepare.store import Store
from lit_long.errors import UserError

_NAMED = 5  # bad rows that a message names


class Tally:
    """Takes the messages of the processes.

    Args:
        store: the work.
        done: what earlier runs did.
        total_bytes: raw text of all sources, if it is known.
        max_bad_rows: how many may be left out.
        doubled: called with the hashes of ids that two documents seem to share.
        progress: called after each batch.

    Raises:
        UserError: too many bad rows, or what ``doubled`` raises; also from :meth:`tell`.
    """

    def __init__(
        self,
        store: Store,
        done: dict[int, dict[str, Any]],
        *,
        total_bytes: int | None,
        max_bad_rows: int,
        doubled: Callable[[npt.NDArray[np.uint64], list[int]], None],
        progress: Callable[[Progress], None],
    ) -> None:
        self._store, self._doubled, self._progress, self._limit = store, doubled, progress, max_bad_rows
        self.total_bytes = total_bytes
        self.numbers = list(done)
        self._found = len(done)
        self._done_bytes = sum(about["bytes"] for about in done.values())
        self._in_work: dict[int, int] = {}  # item -> characters done, about as many as bytes
        self._documents = self._tokens = 0
        self._hashes = IdHashes()
        self._kinds: Counter[str] = Counter()
        self._bad: list[tuple[int, str]] = []
        for number, about in done.items():
            for row in about["bad_rows"]:
                self._add_bad(number, row["kind"], f"{row['place']}: {row['message']}")
            self._add_ids(number)
        self._check_bad()
        self.report()

    def tell(self, message: Message) -> None:
        """Take a message."""
        if isinstance(message, Bad):
            self._add_bad(message.item, message.row.kind, f"{message.row.place}: {message.row.message}")
            self._check_bad()
        elif isinstance(message, Batch):
            self._in_work[message.item] = self._in_work.get(message.item, 0) + message.characters
            self._documents += message.documents
            self._tokens += message.tokens
        else:
            self._in_work.pop(message.item, None)
            self._done_bytes += message.bytes
            self.numbers.append(message.item)
            self._add_ids(message.item)
        self.report()

    def report(self) -> None:
        """Say how far the work is."""
        done = self._done_bytes + sum(self._in_work.values())
        if self.total_bytes is not None:
            done = min(done, self.total_bytes)
        items = len(self.numbers)
        bad = sum(self._kinds.values())
        self._progress(Progress(done, self.total_bytes, self._documents, self._tokens, bad, items, self._found))

    def _add_ids(self, number: int) -> None:
        suspects = self._hashes.add(self._store.documents(number)["id_hash"])
        if len(suspects):
            self._doubled(suspects, sorted(self.numbers))

    def _add_bad(self, number: int, kind: str, text: str) -> None:
        self._kinds[kind] += 1
        if len(self._bad) < _NAMED:
            self._bad.append((number, text))

    def _check_bad(self) -> None:
        check_bad_rows(self._kinds, [text for _, text in sorted(self._bad, key=lambda bad: bad[0])], self._limit)


def check_bad_rows(kinds: dict[str, int], named: list[str], limit: int) -> None:
    """Refuse more bad rows than are allowed.

    Args:
        kinds: kind -> how many.
        named: the first ones, each with its place.
        limit: how many may be left out.

    Raises:
        UserError: there are more.
    """
    total = sum(kinds.values())
    if total <= limit:
        return
    by_kind = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    advice = (
        f"{total} bad row(s) found so far ({by_kind}), {limit} allowed (max_bad_rows). Mend them, or allow more with "
        f"--max-bad-rows N: they are then left out, counted and listed in bad_rows.jsonl"
    )
    raise UserError("\n  ".join([*named[:_NAMED], advice]) if len(named) > 1 else f"{named[0]} [{advice}]")
