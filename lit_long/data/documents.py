"""A subset of a corpus's documents as a token stream of its own: by source, and by length.

All documents of a corpus need no index (``corpus.starts`` is one). A subset has two arrays, its documents and where
each begins; at scale they are built once, in bounded memory, and memory-mapped from then on.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
_CHUNK = 1 << 22  # documents looked at together
_IN_MEMORY = 1 << 22  # subsets up to this many documents (64 MB) are kept in memory


class CorpusIndex(Protocol):
    """What a plan needs to know of a corpus: :class:`lit_long.data.TokenCorpus` is one."""

    path: Path
    starts: Any
    sources: Any
    source_names: list[str]

    @property
    def fingerprint(self) -> str:
        """Identity of its documents and tokens."""


@dataclass(frozen=True)
class Selection:
    """Which documents: those of ``source`` (None: all), with ``above`` < tokens <= ``up_to`` (None: any number)."""

    source: str | None = None
    above: int = 0
    up_to: int | None = None


class DocumentSet:
    """Selected documents of a corpus, in corpus order, as one stream of ``tokens`` tokens.

    Args:
        corpus: the corpus.
        selection: which documents.
    """

    def __init__(self, corpus: CorpusIndex, selection: Selection) -> None:
        self.corpus, self.selection = corpus, selection
        self.starts: Int64 = corpus.starts
        self._index: Int64 | None = None
        if selection != Selection():
            self._index, self.starts = _select(corpus, selection)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        """Tokens of all selected documents."""
        return int(self.starts[-1])

    def corpus_documents(self, members: Int64) -> Int64:
        """Numbers in the corpus of the given members of this set (int64, any shape)."""
        return members if self._index is None else self._index[members]

    def pieces(self, position: int, length: int) -> Int64:
        """Pieces of documents that fill ``length`` tokens from ``position`` of the stream, taken as a ring.

        Returns:
            int64 [pieces, 3]: document in the corpus, first token in it, and one past the last.
        """
        tokens, parts = self.tokens, []
        while length:
            stop = min(position + length, tokens)
            first = int(np.searchsorted(self.starts, position, side="right")) - 1
            last = int(np.searchsorted(self.starts, stop, side="left"))
            starts = np.asarray(self.starts[first : last + 1])
            begin = np.maximum(starts[:-1], position) - starts[:-1]
            end = np.minimum(starts[1:], stop) - starts[:-1]
            parts.append(np.stack([self.corpus_documents(np.arange(first, last)), begin, end], axis=1))
            length -= stop - position
            position = 0
        return np.concatenate(parts)


def _select(corpus: CorpusIndex, selection: Selection) -> tuple[Int64, Int64]:
    """Documents and starts of a selection: small ones in memory, large ones as memory-mapped files, made once."""
    folder = _index_folder(corpus, selection)
    if not folder.is_dir():
        documents: list[Int64] = []
        lengths: list[Int64] = []
        chunks = _chunks(corpus, selection)
        for chosen, sizes in chunks:
            documents.append(chosen)
            lengths.append(sizes)
            if sum(map(len, documents)) > _IN_MEMORY:
                _write_index(chain(zip(documents, lengths, strict=True), chunks), folder)
                break
        else:
            return np.concatenate(documents), np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return np.memmap(folder / "documents.int64", np.int64, "r"), np.memmap(folder / "starts.int64", np.int64, "r")


def _chunks(corpus: CorpusIndex, selection: Selection) -> Iterator[tuple[Int64, Int64]]:
    """Selected documents and their lengths, a few million documents at a time."""
    starts, total = corpus.starts, len(corpus.starts) - 1
    code = None if selection.source is None else corpus.source_names.index(selection.source)
    for first in range(0, max(total, 1), _CHUNK):
        stop = min(first + _CHUNK, total)
        lengths = np.diff(starts[first : stop + 1])
        keep = lengths > selection.above
        if selection.up_to is not None:
            keep &= lengths <= selection.up_to
        if code is not None:
            keep &= np.asarray(corpus.sources[first:stop]) == code
        chosen = np.flatnonzero(keep)
        yield chosen.astype(np.int64) + first, lengths[chosen].astype(np.int64)


def _index_folder(corpus: CorpusIndex, selection: Selection) -> Path:
    key = hashlib.sha256(f"1:{corpus.fingerprint}:{selection}".encode()).hexdigest()[:24]
    if os.access(corpus.path, os.W_OK):
        return corpus.path / "index" / key
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "lit_long" / "index" / key


def _write_index(chunks: Iterable[tuple[Int64, Int64]], folder: Path) -> None:
    """Write the two arrays; ranks that do so at the same time write the same bytes, and the first one's stay."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with (partial / "documents.int64").open("wb") as documents, (partial / "starts.int64").open("wb") as starts:
            position = np.zeros(1, np.int64)
            position.tofile(starts)
            for chosen, lengths in chunks:
                chosen.tofile(documents)
                ends = position[-1] + np.cumsum(lengths)
                ends.tofile(starts)
                position = ends[-1:] if len(ends) else position
        partial.chmod(0o755)
        with contextlib.suppress(OSError):  # another rank was first
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
