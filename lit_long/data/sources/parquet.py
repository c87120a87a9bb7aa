"""Parquet: cut into ranges of rows by the files' footers; a worker reads the needed columns of its row group only.

A page of a Parquet file can only be read whole, so a worker holds one page of texts (1 MB as a rule; writers that put
thousands of long texts into a page make it gigabytes) and decodes the pages before its rows, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lit_long.data.sources.records import Record
from lit_long.data.sources.source import Source
from lit_long.data.sources.tables import columns, rows
from lit_long.errors import UserError

BATCH_BYTES = 8 << 20  # of text at a time in memory, by the row group's average
BATCH_ROWS = 1024


@dataclass(frozen=True)
class RowRange:
    """Rows ``begin`` to ``end`` of the row group ``group``, whose first row has the number ``first``.

    ``file`` is a path or an fsspec URL; ``place`` and ``name`` stand before "#row" in a row's place and default id.
    """

    file: str
    place: str
    name: str
    group: int
    first: int
    begin: int
    end: int
    size: int

    def read(self, source: Source, max_document_bytes: int) -> Iterator[Record]:
        """The documents and bad rows of these rows."""
        batch_rows = max(1, min(BATCH_ROWS, (self.end - self.begin) * BATCH_BYTES // max(self.size, 1)))
        with _opened(self.file) as parquet:
            names = columns(source, parquet.schema_arrow, self.file)
            at = 0  # row of the group; the pages before ours have to be decoded, too
            for batch in parquet.iter_batches(batch_rows, row_groups=[self.group], columns=names):
                begin, end = max(self.begin - at, 0), min(self.end - at, batch.num_rows)
                if begin < end:
                    ours = batch.slice(begin, end - begin)
                    yield from rows(ours, self.first + at + begin, source, self.place, self.name, max_document_bytes)
                at += batch.num_rows
                if at >= self.end:
                    break
            if at < self.end:
                raise UserError(f"{self.file}: became shorter while it was read; start again when it is complete")


def plan_parquet(
    file: str, source: Source, item_bytes: int, *, place: str, name: str, first: int = 0
) -> Iterator[RowRange]:
    """Ranges of rows of about ``item_bytes`` of text, by the row groups' average (uncompressed, as the footer says).

    Args:
        file: path or fsspec URL.
        source: names of the columns.
        item_bytes: bytes of a range.
        place: as in :class:`RowRange`.
        name: as in :class:`RowRange`.
        first: the number of the file's first row.

    Raises:
        UserError: no Parquet file, damaged, cut short, or without a column of texts.
    """
    with _opened(file) as parquet:
        columns(source, parquet.schema_arrow, file)
        metadata = parquet.metadata
        for group in range(metadata.num_row_groups):
            info = metadata.row_group(group)
            chunks = (info.column(i) for i in range(info.num_columns))
            size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema == source.text_field)
            pieces = max(1, min(info.num_rows, round(size / item_bytes)))
            cuts = [info.num_rows * i // pieces for i in range(pieces + 1)]
            for begin, end in pairwise(cuts):
                if begin < end:
                    yield RowRange(file, place, name, group, first, begin, end, size * (end - begin) // info.num_rows)
            first += info.num_rows


@contextmanager
def _opened(file: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    remote = "://" in file
    kinds = (Exception,) if remote else (OSError, pa.ArrowException)  # each remote file system has errors of its own
    try:
        # a buffer, so that a column is read in pieces and not a whole row group at once
        with (
            _remote(file) if remote else nullcontext(file) as opened,
            pq.ParquetFile(opened, buffer_size=1 << 20, pre_buffer=False) as parquet,
        ):
            yield parquet
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{file}: cannot be read ({error}); get the file again") from error


def _remote(url: str) -> Any:
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url)
    return system.open(path, "rb")
