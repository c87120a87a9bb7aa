"""One item of work: its documents, tokenised, to a file of each split, and what is to be known about them beside it.

``items/000012.train.arrow`` and ``.held_out.arrow`` (where it has such documents), ``items/000012.documents.npy`` (one
:data:`DOCUMENT` each, in order) and, last, ``items/000012.json``. Each appears under its name when it is whole and on
the disk; an item whose JSON is there is done.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.corpus_shard import ShardWriter
from lit_long.data.corpus_writer import write_json
from lit_long.data.prepare.config import SPLITS
from lit_long.data.prepare.encoder import Encoder, EncoderSpec
from lit_long.data.sources import BadRow, Document, Item, Skipped, Source, read_item

BATCH_CHARS = 1 << 20  # text per call of the tokenizer: its result takes some 100 times as much memory

# id_hash: first 8 bytes of the id's SHA-256; split: index into SPLITS; digest: SHA-256 of id, source and tokens
DOCUMENT = np.dtype([("id_hash", "<u8"), ("length", "<i8"), ("source", "<u2"), ("split", "u1"), ("digest", "V32")])


@dataclass(frozen=True)
class Job:
    """What a process needs to know to do any item; ``key`` names inputs and settings, ``folder`` holds the items."""

    key: str
    folder: str
    sources: tuple[Source, ...]
    encoder: EncoderSpec
    held_out: frozenset[str]
    held_out_share: float
    max_document_bytes: int


@dataclass(frozen=True)
class Batch:
    """Part of an item is done: so many documents, tokens and characters."""

    item: int
    documents: int
    tokens: int
    characters: int


@dataclass(frozen=True)
class Bad:
    """A bad row of an item."""

    item: int
    row: BadRow


@dataclass(frozen=True)
class Finished:
    """An item is done and on the disk: ``bytes`` of raw text."""

    item: int
    bytes: int


Message = Batch | Bad | Finished


def write_item(item: Item, job: Job, encoder: Encoder, tell: Callable[[Message], None]) -> None:
    """Do one item; where that fails, nothing of it is left.

    Args:
        item: one of :func:`lit_long.data.sources.plan_items` over ``job.sources``.
        job: the work that it belongs to.
        encoder: made of ``job.encoder``.
        tell: called with each bad row as it is found, each batch and, at last, the item.

    Raises:
        UserError: a file cannot be read.
        OSError: a file cannot be written.
    """
    output = _Output(item, job)
    try:
        for batch in _batches(item, job, output, tell):
            tokens = encoder.encode([document.text for document in batch])
            for document, ids in zip(batch, tokens, strict=True):
                output.add(document, ids)
            tell(Batch(item.number, len(batch), sum(map(len, tokens)), sum(len(document.text) for document in batch)))
        output.finish()
    finally:
        output.abandon()
    tell(Finished(item.number, item.size))


def _batches(item: Item, job: Job, output: "_Output", tell: Callable[[Message], None]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for record in read_item(item, job.sources, max_document_bytes=job.max_document_bytes):
        if isinstance(record, BadRow):
            output.bad_rows.append(record)
            tell(Bad(item.number, record))
        elif isinstance(record, Skipped):
            output.skipped.append(record)
        else:
            if batch and size + len(record.text) > BATCH_CHARS:
                yield batch
                batch, size = [], 0
            batch.append(record)
            size += len(record.text)
    if batch:
        yield batch


@dataclass
class _SplitFile:
    writer: ShardWriter
    characters: int = 0
    longest: int = 0
    histogram: dict[int, list[int]] = field(default_factory=dict)
    licenses: set[str] = field(default_factory=set)


class _Output:
    """The files of one item, under temporary names until they are whole."""

    def __init__(self, item: Item, job: Job) -> None:
        self._item, self._job = item, job
        self._stem = f"{item.number:06d}"
        self._folder = Path(job.folder)
        self._source = job.sources[item.source].label
        self._files: dict[str, _SplitFile] = {}
        self._documents: list[tuple[int, int, int, int, bytes]] = []
        self._held_out: list[str] = []
        self.bad_rows: list[BadRow] = []
        self.skipped: list[Skipped] = []

    def _temporary(self, name: str) -> Path:
        return self._folder / f"{self._stem}.{name}.{os.getpid()}.tmp"

    def add(self, document: Document, tokens: npt.NDArray[np.int32]) -> None:
        id_number = id_hash(document.id)
        chosen = document.id in self._job.held_out or id_number < self._job.held_out_share * 2**64
        split = "held_out" if chosen else "train"
        if split not in self._files:
            self._files[split] = _SplitFile(ShardWriter(self._temporary(f"{split}.arrow")))
        if split == "held_out":
            self._held_out.append(document.id)
        file, size = self._files[split], len(tokens)
        file.writer.add(document.id, tokens, self._source)
        file.characters += len(document.text)
        file.longest = max(file.longest, size)
        bucket = file.histogram.setdefault(1 << (size - 1).bit_length(), [0, 0])
        bucket[0] += 1
        bucket[1] += size
        if document.license:
            file.licenses.add(document.license)
        id_ = document.id.encode()
        digest = hashlib.sha256(id_ + b"\0" + self._item.source.to_bytes(2, "little"))
        digest.update(tokens.astype("<i4", copy=False).data)
        self._documents.append((id_number, size, self._item.source, SPLITS.index(split), digest.digest()))

    def finish(self) -> None:
        splits: dict[str, Any] = {}
        for split, file in self._files.items():
            shard = asdict(file.writer.close()) | {"file": f"{self._stem}.{split}.arrow"}
            os.replace(self._temporary(f"{split}.arrow"), self._folder / shard["file"])
            splits[split] = {
                "shard": shard,
                "characters": file.characters,
                "longest": file.longest,
                "histogram": file.histogram,
                "licenses": sorted(file.licenses),
            }
        temporary = self._temporary("documents.npy")
        with temporary.open("wb") as out:
            np.save(out, np.array(self._documents, dtype=DOCUMENT))
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, self._folder / f"{self._stem}.documents.npy")
        about = {
            "key": self._job.key,
            "number": self._item.number,
            "source": self._item.source,
            "bytes": self._item.size,
            "splits": splits,
            "held_out": self._held_out,
            "bad_rows": [asdict(row) for row in self.bad_rows],
            "skipped": [asdict(skipped) for skipped in self.skipped],
        }
        write_json(self._folder / f"{self._stem}.json", about)

    def abandon(self) -> None:
        """Remove what is not whole."""
        for split, file in self._files.items():
            file.writer.abandon()
            self._temporary(f"{split}.arrow").unlink(missing_ok=True)
        self._temporary("documents.npy").unlink(missing_ok=True)


def id_hash(id_: str) -> int:
    """8 bytes of a document's id, to find doubled ones by."""
    return int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8], "little")
