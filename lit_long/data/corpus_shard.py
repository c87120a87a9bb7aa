"""One file of a token corpus: an Arrow stream of record batches, written once and read through a memory map."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# A record batch holds whole documents and at least this many tokens, the last one aside: 16 MiB, so that a file of some
# hundred MB has a few dozen batches to find a document in, and a writer holds little.
BATCH_TOKENS = 1 << 22


@dataclass(frozen=True)
class Shard:
    """A finished file: its name, rows, tokens, size in bytes and SHA-256 (hex)."""

    file: str
    documents: int
    tokens: int
    bytes: int
    sha256: str


class MappedShard:
    """A file of a corpus, mapped; its record batches are found once and their buffers sliced without a copy.

    Raises:
        OSError, ValueError, KeyError: it cannot be read, is no Arrow stream, or is not a corpus' file.
    """

    def __init__(self, file: Path) -> None:
        import pyarrow as pa

        self._ids: list[Any] = []
        self._tokens: list[npt.NDArray[np.int32]] = []
        with pa.memory_map(str(file)) as source:
            for batch in pa.ipc.open_stream(source):
                self._ids.append(batch.column("id"))
                # flatten() honours the column's own offset
                self._tokens.append(batch.column("input_ids").flatten().to_numpy(zero_copy_only=True))
        self._rows_before = np.cumsum([0] + [len(ids) for ids in self._ids])
        self._tokens_before = np.cumsum([0] + [len(tokens) for tokens in self._tokens])

    @property
    def documents(self) -> int:
        """Number of rows."""
        return int(self._rows_before[-1])

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self._tokens_before[-1])

    def tokens_at(self, row: int, begin: int, end: int) -> npt.NDArray[np.int32]:
        """Tokens ``begin`` to ``end`` of the file, which must lie in row ``row``: int32 [end - begin], a view."""
        batch = int(np.searchsorted(self._rows_before, row, side="right")) - 1
        base = int(self._tokens_before[batch])
        return self._tokens[batch][begin - base : end - base]

    def id_at(self, row: int) -> str:
        """Id of row ``row``."""
        batch = int(np.searchsorted(self._rows_before, row, side="right")) - 1
        return str(self._ids[batch][row - int(self._rows_before[batch])].as_py())


class ShardWriter:
    """Writes one file, row by row; :meth:`close` makes sure that it is on the disk.

    Args:
        file: where to write; an earlier file there is replaced.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, file: Path) -> None:
        import pyarrow as pa

        self._file = file
        self._schema = pa.schema({"id": pa.string(), "input_ids": pa.list_(pa.int32()), "source": pa.string()})
        self._sink = _HashedFile(file)
        self._stream = pa.ipc.new_stream(self._sink, self._schema)
        self._rows: list[tuple[str, npt.NDArray[np.int32], str]] = []
        self._held = self._documents = self._tokens = 0

    def add(self, id_: str, tokens: npt.NDArray[np.int32], source: str) -> None:
        """One document: ``tokens`` int32 [length], at least one."""
        self._rows.append((id_, tokens, source))
        self._held += len(tokens)
        self._documents += 1
        self._tokens += len(tokens)
        if self._held >= BATCH_TOKENS:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        ids, tokens, sources = zip(*self._rows, strict=True)
        ends = np.cumsum([0, *map(len, tokens)])
        column = pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(np.concatenate(tokens)))
        self._stream.write_batch(
            pa.record_batch([pa.array(ids, pa.string()), column, pa.array(sources, pa.string())], schema=self._schema)
        )
        self._rows, self._held = [], 0

    def close(self) -> Shard:
        """Finish the file, flush it to the disk, and say what it holds."""
        if self._rows:
            self._write()
        self._stream.close()
        size, sha256 = self._sink.finish()
        return Shard(self._file.name, self._documents, self._tokens, size, sha256)

    def abandon(self) -> None:
        """Let go of the file without finishing it."""
        self._sink.close()


class _HashedFile:
    """A binary file that hashes what is written, so that nothing is read again for its sum."""

    def __init__(self, file: Path) -> None:
        self._raw = file.open("wb")
        self._hash, self._size = hashlib.sha256(), 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._hash.update(view)
        self._size += view.nbytes
        return self._raw.write(view)

    def flush(self) -> None:
        self._raw.flush()

    def finish(self) -> tuple[int, str]:
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self.close()
        return self._size, self._hash.hexdigest()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._raw.close()
