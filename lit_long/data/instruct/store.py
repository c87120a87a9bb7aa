"""Tokenised conversations on disk: made once per dataset, tokenizer and template, memory-mapped from then on.

A store is a folder ``train/`` (and ``held_out/``) with ``tokens.int32`` and ``assistant.uint8`` (one value per token,
all examples end to end), ``starts.npy`` (int64 [examples + 1]), ``targets.npy`` (int64 [examples]: targets that the
assistant writes), ``places.json`` (where each example came from), ``groups.json`` (which of them belong together) and
``corpus.json``. It appears under its name only
when it is whole; a run that is killed while it is made makes it again.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.instruct.chat import Chat
from lit_long.errors import UserError

FORMAT = 2
Int64 = npt.NDArray[np.int64]


class ChatCorpus:
    """One split of a store: documents are examples.

    Args:
        path: the split's folder.

    Attributes:
        starts: int64 [examples + 1]: where each begins in the stream of tokens.
        targets: int64 [examples]: targets that the assistant writes, stop tokens included.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, Any] = json.loads((path / "corpus.json").read_text(encoding="utf-8"))
        self.name: str = self.info["name"]
        self.source_names = [self.name]
        self.starts: Int64 = np.load(path / "starts.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
        self.targets: Int64 = np.load(path / "targets.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
        self.sources = np.zeros(self.documents, dtype=np.uint16)
        size = int(self.starts[-1])
        self._tokens = np.memmap(path / "tokens.int32", np.int32, "r", shape=(size,))
        self._assistant = np.memmap(path / "assistant.uint8", np.uint8, "r", shape=(size,))

    @property
    def documents(self) -> int:
        """Number of examples."""
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.starts[-1])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of tokens, marks and lengths."""
        return str(self.info["fingerprint"])

    def span(self, index: int, begin: int, end: int) -> npt.NDArray[np.int32]:
        """Tokens ``begin`` to ``end`` of an example, int32."""
        first = int(self.starts[index])
        return self._tokens[first + begin : first + end].view(np.ndarray)

    def assistant(self, index: int, begin: int, end: int) -> npt.NDArray[np.bool_]:
        """Which of these tokens the assistant writes, bool."""
        first = int(self.starts[index])
        return self._assistant[first + begin : first + end].view(np.ndarray).astype(bool)

    def document_id(self, index: int) -> str:
        """Where an example came from."""
        places: list[str] = json.loads((self.path / "places.json").read_text(encoding="utf-8"))
        return places[index]

    def groups(self) -> list[str]:
        """What each example belongs to; those of one group are never divided between training and validation."""
        found: list[str] = json.loads((self.path / "groups.json").read_text(encoding="utf-8"))
        return found

    def check_tokenizer(self, fingerprint: str, name: str) -> None:
        """Refuse a tokenizer that the examples were not made with.

        Raises:
            UserError: the fingerprints differ.
        """
        own = self.info["tokenizer"]
        if own["fingerprint"] != fingerprint:
            raise UserError(
                f"{self.name}: the examples were tokenised with {own['name']!r}, the model's tokenizer is {name!r}; "
                f"leave data.tokenizer out, or make it the model's"
            )


class StoreWriter:
    """Writes a store, split by split, into a temporary folder.

    Args:
        folder: where the store will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._partial = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._splits: dict[str, _Split] = {}

    def add(self, split: str, chat: Chat, place: str, group: str) -> None:
        """Add an example."""
        if split not in self._splits:
            self._splits[split] = _Split(self._partial / split)
        self._splits[split].add(chat, place, group)

    def finish(self, info: dict[str, Any]) -> None:
        """Put the store in its place."""
        for split in self._splits.values():
            split.finish(info)
        (self._partial / "store.json").write_text(json.dumps(info | {"splits": sorted(self._splits)}, indent=1))
        try:
            os.replace(self._partial, self.folder)
        except OSError:  # another process was first, with the same bytes
            shutil.rmtree(self._partial, ignore_errors=True)
            if not (self.folder / "store.json").is_file():
                raise

    def abandon(self) -> None:
        """Remove what is not whole."""
        for split in self._splits.values():
            split.close()
        shutil.rmtree(self._partial, ignore_errors=True)


class _Split:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._tokens, self._marks = (folder / "tokens.int32").open("wb"), (folder / "assistant.uint8").open("wb")
        self._digest = hashlib.sha256()
        self._lengths: list[int] = []
        self._targets: list[int] = []
        self._places: list[str] = []
        self._groups: list[str] = []

    def add(self, chat: Chat, place: str, group: str) -> None:
        marks = chat.assistant.astype(np.uint8)
        for file, values in ((self._tokens, chat.ids.astype("<i4")), (self._marks, marks)):
            file.write(values.tobytes())
            self._digest.update(values.tobytes())
        self._lengths.append(len(chat.ids))
        self._targets.append(int(marks[1:].sum()))  # nothing predicts the first token
        self._places.append(place)
        self._groups.append(group)

    def close(self) -> None:
        self._tokens.close()
        self._marks.close()

    def finish(self, info: dict[str, Any]) -> None:
        self.close()
        starts = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        np.save(self._folder / "starts.npy", starts)
        np.save(self._folder / "targets.npy", np.array(self._targets, dtype=np.int64))
        (self._folder / "places.json").write_text(json.dumps(self._places), encoding="utf-8")
        (self._folder / "groups.json").write_text(json.dumps(self._groups), encoding="utf-8")
        self._digest.update(starts.tobytes())
        about = {"documents": len(self._lengths), "tokens": int(starts[-1]), "fingerprint": self._digest.hexdigest()}
        (self._folder / "corpus.json").write_text(json.dumps(info | about, indent=1), encoding="utf-8")
