"""Micro-batches of instruction data: packed, weighted, and without padding where that is asked for."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lit_long.data.instruct.weights import TargetWeights
from lit_long.data.packing.batch import IGNORE, pack_batch
from lit_long.data.packing.row import Row


def weighted_batch(
    rows: Sequence[Row], weights: TargetWeights, step_weight: float, *, pad_id: int, padded: bool
) -> dict[str, Any]:
    """The packed batch of rows with ``target_weights``.

    Args:
        rows: what to pack.
        weights: of their targets.
        step_weight: of the whole optimizer step.
        pad_id: id in the places of padding.
        padded: rows are padded to their length [B, S]; else the rows' tokens are laid end to end, [1, tokens], and only
            the document boundaries say where one ends: the same loss with less work.
    """

    def read(part: int, document: int, begin: int, end: int) -> npt.NDArray[np.int32]:
        corpus: Any = weights.parts[part].documents.corpus
        length = int(corpus.starts[document + 1] - corpus.starts[document])
        tokens: npt.NDArray[np.int32] = corpus.span(document, begin, min(end, length))
        return tokens

    batch = pack_batch(rows, read, pad_id=pad_id, step_target_weight=step_weight, weigh=weights.piece)
    return batch if padded else _without_padding(batch, rows)


def _without_padding(batch: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    used = [row.tokens for row in rows]
    cut = {
        name: torch.cat([batch[name][number, :tokens] for number, tokens in enumerate(used)])[None]
        for name in ("input_ids", "position_ids", "target_ids", "target_weights")
    }
    lengths = np.concatenate([row.lengths for row in rows])
    return (
        batch
        | cut
        | {
            "cu_seqlens": torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32),
            "max_seqlen": int(lengths.max()),
        }
    )


class HeldOutChats:
    """The same held-out examples at every validation, packed, divided among ranks.

    Args:
        rows: all of them.
        weights: of their targets.
        micro_batch: rows at once.
        rank: data-parallel rank.
        replicas: data-parallel ranks; each runs the same number of batches, because a collective may wait in each.
        pad_id: id in the places of padding.
    """

    def __init__(
        self, rows: Sequence[Row], weights: TargetWeights, *, micro_batch: int, rank: int, replicas: int, pad_id: int
    ) -> None:
        self._own, self._weights, self._micro_batch, self._pad = rows[rank::replicas], weights, micro_batch, pad_id
        self._filler = rows[0]
        self._batches = math.ceil(math.ceil(len(rows) / replicas) / micro_batch)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(self._batches):
            rows = self._own[index * self._micro_batch : (index + 1) * self._micro_batch]
            batch = weighted_batch(rows or [self._filler], self._weights, 1.0, pad_id=self._pad, padded=True)
            if not rows:
                batch["target_ids"].fill_(IGNORE)
            yield batch
