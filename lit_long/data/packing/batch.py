"""Packed batches: rows as tensors, with the boundaries of their documents.

The batch is a plain dict of tensors (docs/architecture.md), so it works with any sampler, strategy or model:
``input_ids``, ``position_ids`` (restarting at 0 in each piece) and ``target_ids`` int64 [B, S]; ``cu_seqlens`` int32
[pieces + 1] over the flattened B*S; ``max_seqlen`` int; ``step_target_weight`` float.
``target_ids`` are **already shifted**: position i holds token i+1 of the same document, IGNORE where there is none. A
sequence can then be cut anywhere, and the last position of a piece that ends inside its document keeps its target.
Padding stands at the end of a row, as a piece of its own without targets.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lit_long.data.packing.row import Row

IGNORE = -100
ReadSpan = Callable[[int, int, int, int], npt.NDArray[np.int32]]
WeighSpan = Callable[[int, int, int, int], npt.NDArray[np.float32]]


def pack_batch(
    rows: Sequence[Row],
    read: ReadSpan,
    *,
    pad_id: int,
    document_mask: bool = True,
    step_target_weight: float,
    weigh: WeighSpan | None = None,
) -> dict[str, Any]:
    """The packed batch of ``rows``, which have one length.

    Args:
        rows: what to pack.
        read: (part, document, first token, one past the last) -> tokens, int32; asked for one token beyond a piece that
            ends inside its document; the end may lie beyond the document's, which then ends the result.
        pad_id: id in the places of padding.
        document_mask: with False, positions run through a row and it counts as one document, so attention crosses
            document boundaries. Targets are the same: the end of a document predicts nothing.
        step_target_weight: targets of the whole optimizer step; with ``weigh``, the sum of their weights.
        weigh: (part, document, first token, one past the last) of a piece -> weights of its targets, float32; a target
            of weight 0 is none. The batch then has ``target_weights`` float32 [B, S].
    """
    size = rows[0].length
    ids = np.full((len(rows), size), pad_id, dtype=np.int64)
    targets = np.full((len(rows), size), IGNORE, dtype=np.int64)
    positions = np.empty((len(rows), size), dtype=np.int64)
    weights = None if weigh is None else np.zeros((len(rows), size), dtype=np.float32)
    count = np.arange(size)
    lengths: list[int] = []
    for number, row in enumerate(rows):
        place = 0
        for document, begin, end in row.pieces.tolist():
            tokens = read(row.part, document, begin, end + 1)  # the token after the piece is its last target
            stop, known = place + end - begin, len(tokens) - 1
            ids[number, place:stop] = tokens[: end - begin]
            targets[number, place : place + known] = tokens[1:]
            if weigh is not None and weights is not None:
                own = weigh(row.part, document, begin, end)
                weights[number, place : place + known] = own
                targets[number, place : place + known][own == 0] = IGNORE
            positions[number, place:stop] = count[: end - begin]
            lengths.append(end - begin)
            place = stop
        if place < size:
            positions[number, place:] = count[: size - place]
            lengths.append(size - place)
        if not document_mask:
            positions[number] = count
    if not document_mask:
        lengths = [size] * len(rows)
    batch = {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions),
        "target_ids": torch.from_numpy(targets),
        "cu_seqlens": torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32),
        "max_seqlen": max(lengths),
        "step_target_weight": step_target_weight,
    }
    return batch if weights is None else batch | {"target_weights": torch.from_numpy(weights)}
