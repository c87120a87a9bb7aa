"""Reads a sharded checkpoint piece by piece, as its ranks stored it: nothing but what is asked for is in memory.

``torch.distributed.checkpoint.load`` holds a tensor and, beside it, each of its stored pieces in turn, which is twice
the tensor where one rank stored all of it. Here a piece goes from its place in the file into one tensor.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from lit_long.errors import UserError
from lit_long.model.shard_table import read_table


@dataclass(frozen=True)
class _Piece:
    """A rectangle of a tensor and its place on disk."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: Path
    start: int
    length: int


class ShardReader:
    """The tensors of a checkpoint folder.

    Args:
        path: The folder.

    Raises:
        UserError: A table of contents that is damaged, asks for foreign code, or points out of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        """The folder."""

        self.table = read_table(path)
        """Its table of contents."""

        found = self.table.state_dict_metadata.items()
        self._places = self.table.storage_data
        self.tensors = {name: entry for name, entry in found if isinstance(entry, TensorStorageMetadata)}
        """Name in the checkpoint to shape (``size``) and dtype (``properties.dtype``) of every tensor."""

    def check(self, names: Iterable[str]) -> None:
        """Find out, before anything is read, whether all pieces of tensors are there.

        Args:
            names: Names in the checkpoint.

        Raises:
            UserError: A file that is missing or too short, or a tensor of which a part was not stored.
        """
        sizes: dict[Path, int] = {}
        for name in names:
            for piece in self._pieces(name):
                if piece.file not in sizes:
                    sizes[piece.file] = piece.file.stat().st_size if piece.file.is_file() else -1
                if sizes[piece.file] < piece.start + piece.length:
                    what = "is missing" if sizes[piece.file] < 0 else "is cut short"
                    raise UserError(f"{piece.file} {what}, which holds a part of {name}. Try an older checkpoint.")

    def read(self, name: str) -> torch.Tensor:
        """One tensor, whole, on the CPU; while it is put together, one of its stored pieces is in memory beside it.

        Args:
            name: Name in the checkpoint.

        Raises:
            UserError: A part that cannot be read.
        """
        pieces, entry = self._pieces(name), self.tensors[name]
        if len(pieces) == 1:
            return self._load(name, pieces[0])
        tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
        for piece in pieces:
            place = tuple(slice(at, at + size) for at, size in zip(piece.offsets, piece.shape, strict=True))
            tensor[place] = self._load(name, piece)
        return tensor

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """One tensor in the order of its elements, in blocks of whole rows, each as it was stored.

        A tensor that was not split by rows comes as one block.

        Args:
            name: Name in the checkpoint.

        Raises:
            UserError: A part that cannot be read.
        """
        pieces, shape = self._pieces(name), tuple(self.tensors[name].size)
        if all(piece.shape[1:] == shape[1:] for piece in pieces):
            for piece in pieces:
                yield self._load(name, piece)
        else:
            yield self.read(name)

    def _pieces(self, name: str) -> list[_Piece]:
        """The stored pieces of a tensor, in the order of their first elements."""
        entry = self.tensors[name]
        pieces = {}
        for chunk in entry.chunks:
            place = self._places.get(MetadataIndex(name, chunk.offsets))
            if place is None or getattr(place, "transform_descriptors", None):
                what = "has no place for" if place is None else "holds a transformed (compressed) copy of"
                raise UserError(f"{self.path} {what} {name}: it is damaged or was written by something else.")
            if prod(chunk.sizes):  # a rank may have had no row of it
                at, shape = tuple(chunk.offsets), tuple(chunk.sizes)
                pieces[at] = _Piece(at, shape, self.path / place.relative_path, place.offset, place.length)
        if sum(prod(piece.shape) for piece in pieces.values()) != prod(entry.size):
            raise UserError(f"{self.path} does not hold all of {name}: it is damaged. Try an older checkpoint.")
        return [pieces[at] for at in sorted(pieces)]

    def _load(self, name: str, piece: _Piece) -> torch.Tensor:
        try:
            with piece.file.open("rb") as file:
                window: Any = _Window(file, piece.start, piece.length)
                tensor = torch.load(window, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's reader of archives raises almost anything
            raise UserError(
                f"{piece.file} cannot be read where it holds {name} ({str(error).splitlines()[0][:200]}): it is "
                "damaged. Try an older checkpoint of the run."
            ) from error
        expected = self.tensors[name].properties.dtype
        if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != piece.shape or tensor.dtype != expected:
            raise UserError(f"{piece.file} holds something else than a part of {name}. Try an older checkpoint.")
        return tensor.detach()


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length = file, start, length
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._length}[whence]
        self._file.seek(self._start + max(0, origin + offset))
        return self.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = memoryview(buffer)[: max(0, self._length - self.tell())]
        return self._file.readinto(part)  # type: ignore[attr-defined]
