"""Evaluation windows: seeded, non-overlapping cuts of long documents that every model is measured on.

Windows are cut by token id and never decoded and re-encoded. Offsets are random inside the document, because windows
that all begin at the title page would confuse "far position" with "far from the front matter". Windows never overlap:
asking for more than fit gives fewer, since overlapping windows would be counted as evidence twice and make every
interval too narrow. Documents are drawn in proportion to the number of windows they hold (systematic sampling, so each
gets its share rounded up or down).
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lit_long.errors import UserError

# Below this, an interval over documents says nothing: Student's t is 12.7 for two documents, 2.8 for five.
_LEAST_CLUSTERED_DOCUMENTS = 5


class Corpus(Protocol):
    """What is needed of :class:`lit_long.data.TokenCorpus`; anything with these members can be evaluated on."""

    @property
    def name(self) -> str:
        """Short name for messages and reports."""

    @property
    def documents(self) -> int:
        """Number of documents."""

    def document(self, index: int) -> np.ndarray:
        """Token ids of one document, integer [tokens]."""

    def document_id(self, index: int) -> str:
        """Stable identifier of one document."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Windows:
    """N windows of ``length`` predictions each, ordered by document and offset."""

    ids: Tensor
    """int64 [N, length + 1] on the CPU: inputs are ``[:, :-1]``, targets ``[:, 1:]``."""
    documents: Tensor
    """int64 [N]: index of each window's document in the corpus."""
    offsets: Tensor
    """int64 [N]: token offset of each window inside its document."""
    document_ids: tuple[str, ...]
    """Identifier of each window's document."""
    corpus: str
    """Name of the corpus."""
    asked: int
    """Number of windows asked for; more than N where the documents hold fewer without overlap."""
    short_documents: int
    """Documents skipped because they are shorter than a window."""
    long_documents: int
    """Documents long enough for at least one window."""
    seed: int
    first_token: int | None = None
    """Token that replaces the first one of every window (an attention sink such as BOS), if any."""

    @property
    def length(self) -> int:
        """Predictions per window (S)."""
        return self.ids.shape[1] - 1

    @property
    def used_documents(self) -> int:
        """Number of different documents with at least one window."""
        return self.documents.unique().numel()

    @property
    def clustered_by(self) -> str:
        """``"document"`` from five documents on, else ``"window"``: intervals then speak for these documents only."""
        return "document" if self.used_documents >= _LEAST_CLUSTERED_DOCUMENTS else "window"

    @property
    def clusters(self) -> Tensor:
        """int64 [N]: the cluster of each window, see ``clustered_by``."""
        return self.documents if self.clustered_by == "document" else torch.arange(len(self.documents))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the token ids, documents and offsets, in hex: equal for equal windows on every machine."""
        digest = hashlib.sha256()
        for tensor in (self.ids, self.documents, self.offsets):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Plain values for a report: counts, seed, fingerprint, and the document and offset of every window."""
        return {
            "corpus": self.corpus,
            "length": self.length,
            "count": self.ids.shape[0],
            "asked": self.asked,
            "documents": self.used_documents,
            "long_documents": self.long_documents,
            "short_documents_skipped": self.short_documents,
            "clustered_by": self.clustered_by,
            "seed": self.seed,
            "first_token": self.first_token,
            "fingerprint": self.fingerprint,
            "positions": [
                {"document": document, "offset": offset}
                for document, offset in zip(self.document_ids, self.offsets.tolist(), strict=True)
            ],
        }


def take_windows(corpus: Corpus, length: int, count: int, seed: int, *, first_token: int | None = None) -> Windows:
    """Cut up to ``count`` non-overlapping windows of ``length + 1`` tokens out of the corpus's long documents.

    Args:
        corpus: Documents as token ids.
        length: Predictions per window (S); a window holds one token more.
        count: Windows wanted. Fewer are taken where fewer fit without overlap (see ``Windows.asked``).
        seed: The same corpus, length, count and seed give the same windows on every machine.
        first_token: Replaces the first token of every window, for models that rely on one fixed first token (BOS).

    Returns:
        The windows; documents shorter than ``length + 1`` tokens are skipped and counted.

    Raises:
        UserError: ``length`` or ``count`` is not positive, or no document is long enough.
    """
    if length < 1 or count < 1:
        raise UserError(f"Window length {length} and number {count} must both be at least 1.")
    span = length + 1
    sizes = np.array([len(corpus.document(i)) for i in range(corpus.documents)], dtype=np.int64)
    capacities = sizes // span
    total = int(capacities.sum())
    if total == 0:
        longest = f"the longest has {sizes.max():,} tokens" if len(sizes) else "it has no documents"
        raise UserError(
            f"No document of corpus '{corpus.name}' holds a window of {length:,} + 1 tokens ({longest}). "
            "Ask for a shorter --length, or evaluate on a corpus with longer documents."
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, length, count]))
    windows, documents, offsets = [], [], []
    for index, number in enumerate(_share(capacities, min(count, total), rng)):
        if number == 0:
            continue
        # Uniform over all placements without overlap: spread the free tokens, then shift by the windows before.
        free = int(sizes[index]) - number * span
        starts = np.sort(rng.integers(0, free + 1, size=number)) + span * np.arange(number)
        tokens = corpus.document(index)
        for start in starts.tolist():
            windows.append(np.asarray(tokens[start : start + span], dtype=np.int64))
            documents.append(index)
            offsets.append(start)
    ids = torch.from_numpy(np.stack(windows))
    if first_token is not None:
        ids[:, 0] = first_token
    return Windows(
        ids=ids,
        documents=torch.tensor(documents, dtype=torch.int64),
        offsets=torch.tensor(offsets, dtype=torch.int64),
        document_ids=tuple(corpus.document_id(index) for index in documents),
        corpus=corpus.name,
        asked=count,
        short_documents=int((capacities == 0).sum()),
        long_documents=int((capacities > 0).sum()),
        seed=seed,
        first_token=first_token,
    )


def _share(capacities: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Windows per document: ``count`` equally spaced points over the documents laid end to end in a random order.

    A document of capacity c out of C gets count * c / C windows rounded up or down, never more than c, because the
    points are at least one unit apart.
    """
    order = rng.permutation(len(capacities))
    ends = np.cumsum(capacities[order])
    spacing = ends[-1] / count
    points = (np.arange(count) + rng.random()) * spacing
    hits = np.searchsorted(ends, np.minimum(points, np.nextafter(ends[-1], 0)), side="right")
    shares = np.zeros(len(capacities), dtype=np.int64)
    np.add.at(shares, order[hits], 1)
    # Rounding of the spacing may put one point a hair over a border where every unit is taken.
    return np.minimum(shares, capacities).tolist()
