"""Token corpora on disk: a Hugging Face ``datasets`` folder that anybody can open, read here without a copy.

Layout of a corpus folder (``datasets.load_from_disk(folder)`` gives a ``DatasetDict``)::

    folder/dataset_dict.json
    folder/train/       data-*.arrow, dataset_info.json, state.json, starts.npy, sources.npy, corpus.json
    folder/held_out/    the same, when documents are held out

A row is a document: ``id`` (string), ``input_ids`` (list of int32, with the final EOS), ``source`` (string).
``datasets`` copies a whole row to read a part of it, and reads every file's index when it opens a folder; a row here
may be a repository of millions of tokens, and a corpus thousands of files. :class:`TokenCorpus` maps what it needs when
it needs it: opening costs one look at each file's size, whatever the number of documents, and memory stays flat.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.corpus_shard import MappedShard
from lit_long.errors import UserError

FORMAT = 2
OPEN_SHARDS = 128  # mapped at once: each costs a file descriptor, of which a process may have as few as 256


class TokenCorpus:
    """A split of a token corpus, memory-mapped.

    The documents, in order, form one stream of ``tokens`` tokens; ``starts`` says where each begins.

    Args:
        path: the corpus folder written by ``lit-long prepare``, or one split's own folder (``split`` is then its name
            or left out).
        split: "train" or "held_out".

    Attributes:
        path: the split's own folder.
        name: the corpus' name in reports.
        info: the content of corpus.json.
        starts: int64 [documents + 1], memory-mapped: where each document begins in the stream; the last is ``tokens``.
        sources: uint16 [documents], memory-mapped: index of each document's source in ``source_names``.
        source_names: names of the sources.

    Raises:
        UserError: no corpus there, one written by a newer or an older lit-long, or a damaged one.
    """

    def __init__(self, path: str | Path, split: str = "train") -> None:
        self.path = _split_folder(Path(path), split)
        try:
            self.info: dict[str, Any] = json.loads((self.path / "corpus.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise self._damaged(f"corpus.json is not JSON: {error}") from error
        self._check_format()
        self.name: str = self.info["name"]
        self.source_names: list[str] = [source["name"] for source in self.info["sources"]]
        self.starts: npt.NDArray[np.int64] = self._mapped("starts.npy", np.int64, self.documents + 1)
        self.sources: npt.NDArray[np.uint16] = self._mapped("sources.npy", np.uint16, self.documents)
        shards = self.info["shards"]
        self._first_documents = np.cumsum([0] + [shard["documents"] for shard in shards])
        self._check_counts()
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open)

    def __reduce__(self) -> tuple[type["TokenCorpus"], tuple[str]]:
        return TokenCorpus, (str(self.path),)  # a worker process maps the files itself

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}; the folder is damaged: remove it and run lit-long prepare again")

    def _check_format(self) -> None:
        found = self.info.get("format")
        if not isinstance(found, int):
            raise self._damaged(f"corpus.json names no format, found {found!r}")
        if found > FORMAT:
            raise UserError(f"{self.path}/corpus.json: format {found} is newer than this lit-long ({FORMAT})")
        if found < FORMAT:
            raise UserError(
                f"{self.path}/corpus.json: format {found} was written by an older lit-long, this one reads {FORMAT}; "
                f"remove the folder and run lit-long prepare again (or prepare into another output)"
            )

    def _mapped(self, file: str, dtype: type, size: int) -> npt.NDArray[Any]:
        try:
            array = np.load(self.path / file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(f"{file}: {getattr(error, 'strerror', None) or error}") from error
        if array.dtype != dtype or array.shape != (size,):
            raise self._damaged(f"{file}: expected {np.dtype(dtype)} [{size}], found {array.dtype} {list(array.shape)}")
        return array.view(np.ndarray)  # still mapped; a plain array is indexed several times faster than a memmap

    def _check_counts(self) -> None:
        shards = self.info["shards"]
        for what, total in (("documents", int(self._first_documents[-1])), ("tokens", int(self.starts[-1]))):
            listed = sum(shard[what] for shard in shards)
            if not self.info[what] == total == listed:
                raise self._damaged(
                    f"corpus.json says {self.info[what]} {what}, its list of files {listed}, starts.npy {total}"
                )
        for shard in shards:
            try:
                size = (self.path / shard["file"]).stat().st_size
            except OSError as error:
                raise self._damaged(f"{shard['file']}: {error.strerror}") from error
            if size != shard["bytes"]:
                raise self._damaged(f"{shard['file']}: expected {shard['bytes']} bytes, found {size}")

    def _open(self, index: int) -> MappedShard:
        entry = self.info["shards"][index]
        try:
            shard = MappedShard(self.path / entry["file"])
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are of these kinds
            raise self._damaged(f"{entry['file']}: {error}") from error
        if (shard.documents, shard.tokens) != (entry["documents"], entry["tokens"]):
            raise self._damaged(
                f"{entry['file']}: expected {entry['documents']} documents and {entry['tokens']} tokens, "
                f"found {shard.documents} and {shard.tokens}"
            )
        return shard

    @property
    def documents(self) -> int:
        """Number of documents."""
        return int(self.info["documents"])

    @property
    def tokens(self) -> int:
        """Number of tokens, the EOS of each document included."""
        return int(self.info["tokens"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of ids, sources and tokens: two corpora with the same one train the same model."""
        return str(self.info["fingerprint"])

    def document(self, index: int) -> npt.NDArray[np.int32]:
        """Tokens of one document, int32 [length], final EOS included: a read-only view of the mapped file."""
        shard, first = self._place(index)
        begin = int(self.starts[index] - self.starts[first])
        return shard.tokens_at(index - first, begin, begin + int(self.starts[index + 1] - self.starts[index]))

    def span(self, index: int, begin: int, end: int) -> npt.NDArray[np.int32]:
        """Tokens ``begin`` to ``end`` of one document, int32 [end - begin]: a read-only view of the mapped file.

        Raises:
            IndexError: no such document, or outside 0 <= begin <= end <= its length.
        """
        shard, first = self._place(index)
        start = int(self.starts[index])
        if not 0 <= begin <= end <= int(self.starts[index + 1]) - start:
            raise IndexError(f"tokens {begin} to {end} of document {index}, which has {self.starts[index + 1] - start}")
        offset = start - int(self.starts[first])
        return shard.tokens_at(index - first, offset + begin, offset + end)

    def document_id(self, index: int) -> str:
        """The id that the document had in its source."""
        shard, first = self._place(index)
        return shard.id_at(index - first)

    def _place(self, index: int) -> tuple[MappedShard, int]:
        """The file that holds a document, and the file's first document."""
        if not 0 <= index < self.documents:
            raise IndexError(f"document {index} of {self.documents}")
        shard = int(np.searchsorted(self._first_documents, index, side="right")) - 1
        return self._shard(shard), int(self._first_documents[shard])

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Tokens ``start`` to ``stop`` of the stream, int64 [stop - start]; crosses documents, copies.

        Raises:
            IndexError: outside 0 <= start <= stop <= tokens.
        """
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        out = np.empty(stop - start, dtype=np.int64)
        position, index = start, int(np.searchsorted(self.starts, start, side="right")) - 1
        while position < stop:
            first = int(self.starts[index])
            end = min(stop, int(self.starts[index + 1]))
            out[position - start : end - start] = self.span(index, position - first, end - first)
            position, index = end, index + 1
        return out

    def check_tokenizer(self, fingerprint: str, name: str) -> None:
        """Refuse a tokenizer that this corpus was not made with.

        Raises:
            UserError: the fingerprints differ.
        """
        own = self.info["tokenizer"]
        if own["fingerprint"] != fingerprint:
            raise UserError(
                f"{self.path}: made with the tokenizer {own['name']!r} ({own['fingerprint'][:12]}), the model's is "
                f"{name!r} ({fingerprint[:12]}); the ids would mean other words. Run lit-long prepare again "
                f"with tokenizer: {name}"
            )


def _split_folder(folder: Path, split: str) -> Path:
    if (folder / split / "corpus.json").is_file():
        return folder / split
    if not (folder / "corpus.json").is_file() or split not in ("train", folder.resolve().name):
        found = sorted(p.parent.name for p in folder.glob("*/corpus.json"))
        hint = f"its splits are {found}" if found else "make one with: lit-long prepare --config CONFIG.yaml"
        raise UserError(f"{folder}: no token corpus with a split {split!r} here; {hint}")
    return folder
