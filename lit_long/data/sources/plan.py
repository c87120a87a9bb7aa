"""Units of work: from sources to items of about the same size, without parsing, and from an item to documents.

Where items begin and end depends on the sources, ``item_bytes`` and ``max_document_bytes`` alone, so any number of
processes or machines may share them, and a run that was killed finds the same items again. One item is in memory at a
time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lit_long.data.sources.files import JSONL_SUFFIXES, TEXT_SUFFIXES, list_files
from lit_long.data.sources.hub import plan_hub
from lit_long.data.sources.jsonl import plan_jsonl
from lit_long.data.sources.parquet import plan_parquet
from lit_long.data.sources.records import BadRow, Document, Item, Part, Record, Skipped
from lit_long.data.sources.repository import list_repositories, plan_repositories
from lit_long.data.sources.source import Source
from lit_long.data.sources.textfile import plan_text
from lit_long.errors import UserError

MAX_DOCUMENT_BYTES = 256 << 20


@dataclass(frozen=True)
class LeftOut:
    """Files beside the source's own, for the report."""

    place: str
    reason: str
    files: int
    size: int = 0

    def read(self, source: Source, max_document_bytes: int) -> Iterator[Record]:
        """One record."""
        yield Skipped(self.place, self.reason, self.files)


def plan_items(
    sources: Sequence[Source], *, item_bytes: int, max_document_bytes: int = MAX_DOCUMENT_BYTES
) -> Iterator[Item]:
    """Cut the sources into units of work; cheap, for the main process.

    Args:
        sources: where documents come from, in this order.
        item_bytes: raw text (decompressed) of an item, about; a document is never split.
        max_document_bytes: the longest JSON line, text file, Parquet text or repository that becomes a document.

    Returns:
        Items with the numbers 0, 1, ...; the documents of all items in this order are the sources' own order.

    Raises:
        UserError: a source that is not there or has nothing to read (at once); a file that cannot be read, is damaged
            or was cut short (when its turn comes).
    """
    if item_bytes < 1 or max_document_bytes < 1:
        raise UserError(f"item_bytes {item_bytes}, max_document_bytes {max_document_bytes}: give 1 or more for both")
    plans = [_parts(source, item_bytes, max_document_bytes) for source in sources]
    return _items(plans, item_bytes)


def read_item(
    item: Item, sources: Sequence[Source], *, max_document_bytes: int = MAX_DOCUMENT_BYTES
) -> Iterator[Record]:
    """Documents, bad rows and left-out files of one item, in order; for a worker process.

    Args:
        item: of :func:`plan_items` over the same sources.
        sources: the same list.
        max_document_bytes: the same limit.

    Raises:
        UserError: a file that cannot be read any more.
    """
    source = sources[item.source]
    for part in item.parts:
        yield from part.read(source, max_document_bytes)


def read_documents(
    sources: Sequence[Source], *, max_document_bytes: int = MAX_DOCUMENT_BYTES, item_bytes: int = 8 << 20
) -> Iterator[Document]:
    """All documents, in this process; the first bad row is an error.

    Raises:
        UserError: a bad row or a bad source.
    """
    for item in plan_items(sources, item_bytes=item_bytes, max_document_bytes=max_document_bytes):
        for record in read_item(item, sources, max_document_bytes=max_document_bytes):
            if isinstance(record, Document):
                yield record
            elif isinstance(record, BadRow):
                raise UserError(f"{record.place}: {record.message}")


def _items(plans: list[Iterator[Part]], item_bytes: int) -> Iterator[Item]:
    number = 0
    for index, parts in enumerate(plans):
        gathered: list[Part] = []
        size = 0
        for part in parts:
            if size and size + part.size > item_bytes:
                yield Item(index, number, tuple(gathered))
                number, gathered, size = number + 1, [], 0
            gathered.append(part)
            size += part.size
        if gathered:
            yield Item(index, number, tuple(gathered))
            number += 1


def _parts(source: Source, item_bytes: int, max_document_bytes: int) -> Iterator[Part]:
    """What is there is looked up at once, what is in it when the iterator gets there."""
    if source.hub is not None:
        return plan_hub(source, item_bytes)
    path = Path(str(source.path))
    if source.kind in ("repository", "repositories"):
        folders, others = list_repositories(source)
        parts: Iterator[Part] = plan_repositories(source, folders)
        reason = "not in a repository"
    else:
        files, others = list_files(path)
        parts = _file_parts(source, path if path.is_dir() else path.parent, files, item_bytes, max_document_bytes)
        reason = "unknown kind of file"
    return chain([LeftOut(str(path), reason, others)], parts) if others else parts


def _file_parts(
    source: Source, root: Path, files: list[Path], item_bytes: int, max_document_bytes: int
) -> Iterator[Part]:
    for file in files:
        name = file.relative_to(root).as_posix()
        if file.name.endswith(TEXT_SUFFIXES):
            yield plan_text(file, name)
        elif file.name.endswith(JSONL_SUFFIXES):
            yield from plan_jsonl(file, name, item_bytes, max_document_bytes)
        else:
            yield from plan_parquet(str(file), source, item_bytes, place=str(file), name=name)
