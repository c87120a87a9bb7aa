"""Datasets of the Hugging Face Hub, streamed: nothing but the rows in work is held, on disk or in memory.

A dataset of Parquet files, as most are, is cut by the files' footers, and the workers fetch their rows themselves; a
run that starts again costs nothing but the footers. Other formats are streamed by the main process, which hands the
rows out as Arrow data; that has no index, so a second run streams from the first row again (without tokenising what is
done), and a dataset that is used often is better downloaded and read as files. A dataset's own code is never run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_long.data.sources.parquet import plan_parquet
from lit_long.data.sources.records import Part, Record
from lit_long.data.sources.source import Source
from lit_long.data.sources.tables import as_bytes, columns, rows
from lit_long.errors import UserError

BATCH_ROWS = 256


@dataclass(frozen=True)
class HubRows:
    """Rows of a Hub dataset from row ``first`` (from 0) on, as an Arrow stream; ``size``: bytes of text."""

    dataset: str
    first: int
    data: bytes = field(repr=False)
    size: int

    def read(self, source: Source, max_document_bytes: int) -> Iterator[Record]:
        """The documents and bad rows of these rows."""
        import pyarrow as pa

        first = self.first
        for batch in pa.ipc.open_stream(self.data):
            yield from rows(batch, first, source, self.dataset, self.dataset, max_document_bytes)
            first += batch.num_rows


def plan_hub(source: Source, item_bytes: int) -> Iterator[Part]:
    """Stretches of rows of about ``item_bytes`` of text.

    Raises:
        UserError: the dataset, its subset or split is not there or cannot be read, or it has no column of texts.
    """
    files = _parquet_files(source)
    return _plan_stream(source, item_bytes) if files is None else _plan_parquet_files(source, files, item_bytes)


def _plan_parquet_files(source: Source, files: list[str], item_bytes: int) -> Iterator[Part]:
    first, most = 0, source.max_documents
    for file in files:
        following = first
        for part in plan_parquet(file, source, item_bytes, place=source.place, name=source.place, first=first):
            if most is not None and part.first + part.end > most:
                if (left := most - part.first - part.begin) > 0:
                    size = part.size * left // (part.end - part.begin)
                    yield replace(part, end=part.begin + left, size=size)
                return
            yield part
            following = part.first + part.end
        first = following


def _plan_stream(source: Source, item_bytes: int) -> Iterator[Part]:
    gathered: list[Any] = []
    size = first = at = 0  # bytes gathered; rows handed out; rows seen
    for batch in _batches(source):
        begin = 0
        for index, bytes_ in enumerate(_text_bytes(batch, source)):
            size += bytes_
            if size >= item_bytes:
                gathered.append(batch.slice(begin, index + 1 - begin))
                yield HubRows(source.place, first, _packed(gathered), size)
                gathered, size, begin, first = [], 0, index + 1, at + index + 1
        if begin < batch.num_rows:
            gathered.append(batch.slice(begin))
        at += batch.num_rows
    if gathered:
        yield HubRows(source.place, first, _packed(gathered), size)


@lru_cache(maxsize=64)
def resolved_revision(dataset: str, revision: str | None) -> str | None:
    """The commit that a branch or tag of a Hub dataset points to; what was asked for where the Hub cannot say."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if Path(dataset).exists():  # load_dataset takes a local folder, too
        return revision
    try:
        return HfApi().dataset_info(dataset, revision=revision).sha or revision
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError):
        return revision


def _parquet_files(source: Source) -> list[str] | None:
    """Paths or URLs of the split's files, pinned to one commit; None where they are not just Parquet."""
    from datasets import load_dataset_builder

    try:
        revision = resolved_revision(source.place, source.revision)
        builder = load_dataset_builder(source.place, source.subset, revision=revision)
    except Exception as error:
        raise _unreadable(source, error) from error
    splits = builder.config.data_files or {}
    if splits and source.split not in splits:
        raise UserError(f"dataset {source.place}: no split {source.split!r}; found {', '.join(map(str, splits))}")
    if builder.name != "parquet" or not splits:
        return None
    if builder.config.columns is not None or builder.config.filters is not None:
        return None
    return [str(file) for file in splits[source.split]]


def _batches(source: Source) -> Iterator[Any]:
    """Record batches with the needed columns only."""
    from datasets import load_dataset

    try:
        revision = resolved_revision(source.place, source.revision)
        stream = load_dataset(source.place, source.subset, split=source.split, revision=revision, streaming=True)
        if source.max_documents is not None:
            stream = stream.take(source.max_documents)
        for table in stream.with_format("arrow").iter(batch_size=BATCH_ROWS):
            yield from table.select(columns(source, table.schema, source.place)).combine_chunks().to_batches()
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(source, error) from error


def _unreadable(source: Source, error: Exception) -> UserError:
    """One message for whatever datasets, huggingface_hub, fsspec or pyarrow raise: some twenty kinds."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"dataset {source.place}: cannot be read ({reason}); check its id, subset, split")


def _text_bytes(batch: Any, source: Source) -> list[int]:
    import pyarrow.compute as pc

    lengths: list[int] = pc.fill_null(pc.binary_length(as_bytes(batch.column(source.text_field))), 0).to_pylist()
    return lengths


def _packed(batches: list[Any]) -> bytes:
    """An Arrow stream; unlike a pickle it holds the rows of a slice only."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data
