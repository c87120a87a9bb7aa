"""Finding doubled document ids among billions in bounded memory: 8 bytes a document, then a look at the real ids."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from lit_long.data.corpus_shard import MappedShard
from lit_long.data.prepare.config import SPLITS
from lit_long.data.prepare.store import DeadEndError, Store
from lit_long.data.sources import Document, Item, Source, read_item


class IdHashes:
    """A growing set of 8-byte hashes: sorted arrays of doubling sizes, as a log-structured merge tree keeps them.

    Adding n hashes one block at a time costs O(n log n) in all, and 8 bytes each.
    """

    def __init__(self) -> None:
        self._levels: list[npt.NDArray[np.uint64]] = []

    def add(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Add a block; returns those that were there before or are twice in it."""
        new = np.sort(hashes)
        found = [new[1:][new[1:] == new[:-1]]]
        if len(new):
            found += [_shared(new, level) for level in self._levels]
            while self._levels and len(self._levels[-1]) <= 2 * len(new):
                new = np.sort(np.concatenate([self._levels.pop(), new]), kind="stable")
            self._levels.append(new)
        return np.unique(np.concatenate(found))


def _shared(new: npt.NDArray[np.uint64], level: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    places = np.minimum(np.searchsorted(level, new), len(level) - 1)
    return new[level[places] == new]


def check_doubled(
    suspects: npt.NDArray[np.uint64],
    store: Store,
    numbers: Sequence[int],
    sources: tuple[Source, ...],
    items: Iterable[Item],
    max_document_bytes: int,
) -> None:
    """Compare the real ids behind equal hashes.

    Args:
        suspects: hashes that more than one document has.
        store: the work.
        numbers: its items that are done.
        sources: what they are items of.
        items: the items again, from the first.
        max_document_bytes: as they were read with.

    Raises:
        DeadEndError: two documents have the same id; names both places.
    """
    seen: dict[str, int] = {}
    for number in numbers:
        for id_ in _ids(store, number, suspects):
            if id_ in seen:
                first, second = _places(id_, seen[id_], number, sources, items, max_document_bytes)
                raise DeadEndError(
                    f"{second}: the document id {id_!r} was used before, at {first}; give each document an id of its "
                    f"own and name each source once, or have documents numbered by their place with id_field: null "
                    f"(and by their source, where each source has a name)"
                )
            seen[id_] = number


def _ids(store: Store, number: int, suspects: npt.NDArray[np.uint64]) -> Iterable[str]:
    """Ids of an item's documents whose hashes are among ``suspects``, in order."""
    documents = store.documents(number)
    rows = np.flatnonzero(np.isin(documents["id_hash"], suspects))
    if not len(rows):
        return
    shards: dict[int, MappedShard] = {}
    for row in rows:
        split = int(documents["split"][row])
        if split not in shards:
            shards[split] = MappedShard(store.items / f"{number:06d}.{SPLITS[split]}.arrow")
        yield shards[split].id_at(int(np.count_nonzero(documents["split"][:row] == split)))


def _places(
    id_: str, first: int, second: int, sources: tuple[Source, ...], items: Iterable[Item], max_document_bytes: int
) -> tuple[str, str]:
    """Where the first two documents with the id are; reads their items once more."""
    places: list[str] = []
    for item in items:
        if item.number in (first, second):
            records = read_item(item, sources, max_document_bytes=max_document_bytes)
            places += [record.place for record in records if isinstance(record, Document) and record.id == id_]
            if len(places) > 1:
                break
    return places[0], places[1]
