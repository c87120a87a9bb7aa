"""A row: one packed sequence, as pieces of documents."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Row:
    """One packed sequence of ``length`` tokens.

    ``part``: number of the part of the mixture that it is drawn from. ``epoch``: the pass over that part (0-based).
    ``pieces``: int64 [pieces, 3]: document in the corpus, its first token here, and one past its last token here.
    """

    part: int
    epoch: int
    length: int
    pieces: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each piece, int64 [pieces]."""
        lengths: npt.NDArray[np.int64] = self.pieces[:, 2] - self.pieces[:, 1]
        return lengths

    @property
    def tokens(self) -> int:
        """Tokens of documents; the rest of ``length`` is padding."""
        return int(self.lengths.sum())
