"""What ``prepare`` is asked for, what it says while it works, and what it did."""

import os
from dataclasses import dataclass, field

from lit_long.data.cleaning.config import CleanConfig
from lit_long.data.sources import Source
from lit_long.errors import UserError

SPLITS = ("train", "held_out")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What ``lit-long prepare`` reads and writes.

    Args:
        tokenizer: Hub id or folder of a fast tokenizer.
        sources: where documents come from, in this order.
        output: the corpus folder to write. Work that is not done yet is kept in ``OUTPUT.unfinished`` beside it.
        name: name of the corpus in reports; default: the folder's name.
        held_out: ids of documents that training must never see; they go to the split ``held_out``.
        held_out_share: this share (0 to 0.5) of all documents is held out, too: those whose id's SHA-256 begins (8
            bytes, little-endian) below that share of 2^64. An id is on the same side in every corpus.
        license: licence of the whole, if it has one, for reports and model cards.
        clean: duplicates, languages and quality to leave out first (docs/data/cleaning.md); works in
            ``OUTPUT.cleaned``, and needs the extra ``clean``.
        max_bad_rows: rows that may be left out because they are no documents (no JSON, no text, ...); each is named in
            ``bad_rows.jsonl`` in the corpus folder. One more is an error.
        max_document_bytes: a longer document (bytes of UTF-8) is a bad row; default 64 MiB. Tokenising takes about 100
            bytes of memory for each of its bytes, so each process needs up to 6.4 GB for a document of that size.
        processes: how many tokenise at once, each on one core; default: the cores that this process may use.
        item_bytes: raw text behind each file of the corpus; default: from the inputs' size, 1 to 128 MiB.

    Raises:
        UserError: a number that is out of its range.
    """

    tokenizer: str
    sources: tuple[Source, ...]
    output: str
    name: str | None = None
    held_out: tuple[str, ...] = ()
    held_out_share: float = 0.0
    license: str | None = None
    clean: CleanConfig | None = None
    max_bad_rows: int = 0
    max_document_bytes: int = 64 << 20
    processes: int | None = None
    item_bytes: int | None = None

    def __post_init__(self) -> None:
        for key, least in (("max_bad_rows", 0), ("max_document_bytes", 1), ("processes", 1), ("item_bytes", 1)):
            if (value := getattr(self, key)) is not None and value < least:
                raise UserError(f"{key} is {value}; it must be at least {least}")

        if not 0 <= self.held_out_share <= 0.5:
            raise UserError(f"held_out_share is {self.held_out_share:g}; it must be between 0 and 0.5")

    @property
    def cores(self) -> int:
        """Number of processes that tokenise."""
        if self.processes is not None:
            return self.processes
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Progress:
    """How far the work is: raw text done (bytes) of ``total_bytes`` (None: not known yet), and what it gave.

    ``found_items`` were done by an earlier run; they are part of ``done_bytes``, not of ``documents`` and ``tokens``.
    """

    done_bytes: int
    total_bytes: int | None
    documents: int
    tokens: int
    bad_rows: int
    items: int
    found_items: int


@dataclass
class SplitCount:
    """Documents, tokens and characters of one split, and the tokens of its longest document."""

    documents: int = 0
    tokens: int = 0
    characters: int = 0
    longest: int = 0


@dataclass
class PrepareResult:
    """What was written.

    ``reused``: the corpus was there already, made from the same inputs. ``found_items``: items of work that an earlier,
    unfinished run had done. ``bad_rows``: rows left out, by kind. ``skipped_files``: files left out, by reason.
    ``excluded``: documents that the cleaning left out, by reason.
    """

    output: str
    reused: bool
    splits: dict[str, SplitCount] = field(default_factory=dict)
    bad_rows: dict[str, int] = field(default_factory=dict)
    skipped_files: dict[str, int] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)
    found_items: int = 0
