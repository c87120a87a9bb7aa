"""The steps around datatrove's own: reading our sources, writing what stays, and noting what was dropped and why.

A task is an item of :func:`lit_long.data.sources.plan_items`, so its number is its place in the order of the sources;
files are named by it, and a task that was killed writes its files anew.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.text import split_into_parts

from lit_long.data.cleaning.folder import Work, check_bad_rows, text_key, write_whole
from lit_long.data.sources import BadRow, Skipped, read_item

_SHINGLES = 1 << 14  # n-grams hashed at once: 112 hashes of each are 15 MB
Documents = Iterator[Document]


class ReadItem(PipelineStep):
    """The documents of one item; its bad rows and left-out files go to a note."""

    type, name = "lit-long", "read sources"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def run(self, data: Documents | None, rank: int = 0, world_size: int = 1) -> Documents:
        """Documents with ``source``, ``place``, ``license`` and ``priority`` as metadata.

        Raises:
            UserError: more bad rows than allowed, or a source that cannot be read.
        """
        work, item, documents = self.work, self.work.item(rank), 0
        note: dict[str, Any] = {"source": item.source, "bad_rows": [], "skipped": []}
        for record in read_item(item, work.sources, max_document_bytes=work.max_document_bytes):
            if isinstance(record, BadRow):
                note["bad_rows"].append(asdict(record))
                check_bad_rows(note["bad_rows"], work.max_bad_rows)
            elif isinstance(record, Skipped):
                note["skipped"].append(asdict(record))
            else:
                documents += 1
                metadata = {
                    "source": f"{item.source:04d}",
                    "place": record.place,
                    "license": record.license,
                    # of equal texts datatrove keeps the highest: the protected, then the first (to item 65,533)
                    "priority": 65535 if record.id in work.must_keep else max(1, 65534 - rank),
                }
                yield Document(text=record.text, id=record.id, metadata=metadata)
                split_into_parts.cache_clear()  # it would hold the words of five documents, be they of gigabytes
        write_note(work.folder / "notes", rank, note | {"documents": documents})


class ReadBack(PipelineStep):
    """The documents that an earlier stage left of one item."""

    type, name = "lit-long", "read back"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Documents | None, rank: int = 0, world_size: int = 1) -> Documents:
        """The documents as they were written; none where the stage left none."""
        import io

        import orjson
        import zstandard

        path = self.folder / f"{rank:05d}.jsonl.zst"
        if not path.is_file():
            return
        with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as raw:
            for line in io.BufferedReader(raw, 1 << 20):
                row = orjson.loads(line)
                yield Document(text=row["text"], id=row["id"], metadata=row["metadata"])


class WriteStage(JsonlWriter):
    """Documents with their metadata for a later stage."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), "${rank}.jsonl", compression="zstd")


class WriteKept(JsonlWriter):
    """The documents that stay, by source, and a count of them."""

    name = "write kept documents"

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder / "kept"), "${source}/${rank}.jsonl", compression="zstd")
        self.counts = folder / "counts"

    def _default_adapter(self, document: Document) -> dict[str, Any]:
        license_ = document.metadata["license"]
        return {"id": document.id, "text": document.text} | ({"license": license_} if license_ else {})

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Documents:
        """Writes each document and passes it on."""
        count = {"documents": 0, "characters": 0}
        for document in super().run(data, rank, world_size):
            count["documents"] += 1
            count["characters"] += len(document.text)
            yield document
        write_note(self.counts, rank, count)


class WriteDropped(JsonlWriter):
    """One line for each dropped document, without its text: id, place, source, reason, cluster of duplicates."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(str(folder / "dropped" / reason), "${rank}.jsonl", compression=None)
        self.reason = reason

    def _default_adapter(self, document: Document) -> dict[str, Any]:
        detail = document.metadata.get("filter_reason")
        return {
            "id": document.id,
            "place": document.metadata["place"],
            "source": int(document.metadata["source"]),
            "reason": f"{self.reason}: {detail}" if detail else self.reason,
            "characters": len(document.text),
            "cluster": cluster_of(document, self.reason),
        }


class NoteStayed(PipelineStep):
    """Which document stayed of each cluster of duplicates, so that the dropped ones can name it."""

    type, name = "lit-long", "note which duplicate stays"

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__()
        self.folder, self.reason = folder / "stayed" / reason, reason

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Documents:
        """Passes the documents on."""
        stayed = {}
        for document in data:
            if document.metadata.pop("duplicate_count", 1) and (cluster := cluster_of(document, self.reason)):
                stayed[cluster] = document.id
            yield document
        write_note(self.folder, rank, stayed)


class ClusterLabels(PipelineStep):
    """Tells each document the cluster of near duplicates that datatrove put it into."""

    type, name = "lit-long", "label near duplicates"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Documents:
        """Passes the documents on with ``near_cluster`` as metadata, where they are in one."""
        path = self.folder / f"{rank:06d}.clusters"  # pairs of (document of the task, cluster), by MinhashDedupCluster
        pairs = np.fromfile(path, dtype="<u4").reshape(-1, 2).tolist() if path.is_file() else []
        labels = dict(pairs)
        for index, document in enumerate(data):
            if index in labels:
                document.metadata["near_cluster"] = str(labels[index])
            yield document


class LongSignature(MinhashDedupSignature):
    """datatrove's signature in bounded memory: its own one holds 112 numbers for each word, gigabytes for a book."""

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """The same hashes: the least over the whole document is the least of the pieces' least."""
        pieces = [
            super(LongSignature, self).get_signature(shingles[begin : begin + _SHINGLES])
            for begin in range(0, len(shingles), _SHINGLES)
        ]
        least: list[list[int]] = np.min(np.array(pieces, dtype=np.uint64), axis=0).tolist()
        return least


def cluster_of(document: Document, reason: str) -> str | None:
    """What equal or nearly equal documents have in common."""
    if reason == "exact_duplicates":
        return text_key(document.text)
    cluster: str | None = document.metadata.get("near_cluster")
    return cluster


def whole_text(document: Document) -> str:
    """What datatrove's exact duplicates compare (it looks at the annotation)."""
    text: str = document.text
    return text


def priority(document: Document) -> int:
    """Of equal documents the one with the highest stays."""
    return int(document.metadata["priority"])


def write_note(folder: Path, rank: int, note: dict[str, Any]) -> None:
    """Plain facts of one task."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{rank:05d}.json", json.dumps(note))
