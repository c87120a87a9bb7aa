"""Token corpora on disk: a Hugging Face ``datasets`` folder that anybody can open, read here without a copy.

Layout of a corpus folder (``datasets.load_from_disk(folder)`` gives a ``DatasetDict``)::

    folder/dataset_dict.json
    folder/train/       data-*.arrow, dataset_info.json, state.json, corpus.json
    folder/held_out/    the same, when documents are held out

A row is a document: ``id`` (string), ``input_ids`` (list of int32, with the final EOS), ``source`` (string).
``datasets`` copies a whole row to read a part of it; a row here may be a book or a repository of millions of tokens, so
:class:`TokenCorpus` maps the Arrow buffers and slices them instead (zero copy, any position in O(log documents)).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.errors import UserError

FORMAT = 1


class TokenCorpus:
    """A split of a token corpus, memory-mapped.

    The documents, in order, form one stream of ``tokens`` tokens; ``starts`` says where each begins.

    Args:
        path: the corpus folder written by ``lit-long prepare``, or one split's own folder (``split`` is then its name
            or left out).
        split: "train" or "held_out".

    Raises:
        UserError: no corpus there, one written by a newer lit-long, or a damaged one.
    """

    def __init__(self, path: str | Path, split: str = "train") -> None:
        folder = Path(path)
        if (folder / split / "corpus.json").is_file():
            folder = folder / split
        elif not (folder / "corpus.json").is_file() or split not in ("train", folder.resolve().name):
            found = sorted(p.parent.name for p in folder.glob("*/corpus.json"))
            hint = f"its splits are {found}" if found else "make one with: lit-long prepare --config CONFIG.yaml"
            raise UserError(f"{path}: no token corpus with a split {split!r} here; {hint}")
        self.path = folder
        try:
            self.info: dict[str, Any] = json.loads((folder / "corpus.json").read_text())
        except ValueError as error:
            raise self._damaged(f"corpus.json is not JSON: {error}") from error
        if self.info["format"] > FORMAT:
            raise UserError(
                f"{folder}/corpus.json: format {self.info['format']} is newer than this lit-long ({FORMAT})"
            )
        self.name: str = self.info["name"]
        self._load()

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}; the folder is damaged: remove it and run lit-long prepare again")

    def _load(self) -> None:
        from datasets import load_from_disk

        try:
            self._rows = load_from_disk(str(self.path))
        except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds, too
            raise self._damaged(str(error)) from error
        column = self._rows.data.column("input_ids")
        lengths = [np.diff(chunk.offsets.to_numpy(zero_copy_only=True)) for chunk in column.chunks]
        # flatten() honours the chunk's own offset; each is a view of the mapped file
        self._chunks = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in column.chunks]
        self._rows_before = np.cumsum([0] + [len(part) for part in lengths])
        sizes = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)
        self.starts: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if (len(self._rows), int(self.starts[-1])) != (self.info["documents"], self.info["tokens"]):
            raise self._damaged(
                f"corpus.json says {self.info['documents']} documents and {self.info['tokens']} tokens, "
                f"the data holds {len(self._rows)} and {int(self.starts[-1])}"
            )

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        """Number of tokens, the EOS of each document included."""
        return int(self.starts[-1])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of ids and tokens: two corpora with the same one train the same model."""
        return str(self.info["fingerprint"])

    def document(self, index: int) -> npt.NDArray[np.int32]:
        """Tokens of one document, int32 [length], final EOS included: a read-only view of the mapped file."""
        if not 0 <= index < self.documents:
            raise IndexError(f"document {index} of {self.documents}")
        chunk = int(np.searchsorted(self._rows_before, index, side="right")) - 1
        base = self.starts[self._rows_before[chunk]]
        tokens: npt.NDArray[np.int32] = self._chunks[chunk][self.starts[index] - base : self.starts[index + 1] - base]
        return tokens

    def document_id(self, index: int) -> str:
        """The id that the document had in its source."""
        return str(self._rows.data.column("id")[index].as_py())

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
            end = min(stop, int(self.starts[index + 1]))
            offset = position - int(self.starts[index])
            out[position - start : end - start] = self.document(index)[offset : offset + end - position]
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
