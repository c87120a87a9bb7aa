"""What each target of instruction data counts, from the index alone where sums are asked for.

The loss of a step is its weighted sum over the sum of weights of the **whole step**, so the weights below are exact
over packing, gradient accumulation and ranks. With t assistant targets and u others in an example, and w the weight of
the others (0 where the input does not count), its weight is W = t + w u. Weighting by

- ``token``: every target counts as it is: long examples and long inputs dominate;
- ``sample``: every target counts 1 / W of it: every example counts the same;
- ``sqrt``: every target counts 1 / sqrt(W) of it: in between, examples count by the square root of their length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lit_long.data.instruct.store import ChatCorpus
from lit_long.data.mixture import Part
from lit_long.data.packing.row import Row

Weighting = Literal["token", "sample", "sqrt"]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TargetWeights:
    """Weights of the targets of a plan's rows.

    Attributes:
        parts: parts of the mixture.
        inputs: weight of each part's targets that are not the assistant's (chat data only).
        weighting: how examples weigh against each other.
    """

    parts: Sequence[Part]
    inputs: Sequence[float]
    weighting: Weighting = "token"

    def step(self, rows: Sequence[Row]) -> float:
        """Sum of the weights of all targets in these rows."""
        return float(sum(self._row(row) for row in rows))

    def piece(self, part: int, document: int, begin: int, end: int) -> npt.NDArray[np.float32]:
        """Weights of a piece's targets, float32; there is one less than tokens where the piece ends its document."""
        corpus: Any = self.parts[part].documents.corpus
        stop = min(end + 1, int(corpus.starts[document + 1] - corpus.starts[document]))
        if isinstance(corpus, ChatCorpus):
            marks = corpus.assistant(document, begin + 1, stop)
            weights = np.where(marks, np.float32(1), np.float32(self.inputs[part]))
        else:
            weights = np.ones(stop - begin - 1, dtype=np.float32)
        whole = float(self._raw(part, np.array([[document, begin, end]]))[0])
        scale = {"token": 1.0, "sample": 1 / max(whole, 1e-12), "sqrt": max(whole, 1e-12) ** -0.5}[self.weighting]
        return (weights * np.float32(scale)).astype(np.float32)

    def _row(self, row: Row) -> float:
        raw = self._raw(row.part, row.pieces)
        if self.weighting == "sample":
            return float(np.count_nonzero(raw))
        return float((np.sqrt(raw) if self.weighting == "sqrt" else raw).sum())

    def _raw(self, part: int, pieces: npt.NDArray[np.int64]) -> Float64:
        """W of each piece, float64 [pieces]."""
        corpus: Any = self.parts[part].documents.corpus
        document, begin, end = pieces.T
        length = corpus.starts[document + 1] - corpus.starts[document]
        targets = np.minimum(end + 1, length) - begin - 1
        if not isinstance(corpus, ChatCorpus):
            return targets.astype(np.float64)
        own = corpus.targets[document]  # examples are never cut: they fit a sequence
        raw: Float64 = own + self.inputs[part] * (targets - own)
        return raw
