"""Packed batches: pieces of documents side by side, with their boundaries kept.

The batch is a plain dict of tensors (docs/architecture.md), so it works with any sampler, strategy or model:
``input_ids``, ``position_ids`` (restarting at 0 in each piece) and ``target_ids`` int64 [B, S]; ``cu_seqlens`` int32
[pieces + 1] over the flattened B*S; ``max_seqlen`` int; ``step_target_weight`` float.
``target_ids`` are **already shifted**: position i holds token i+1 of the same document, IGNORE where there is none. A
sequence can then be cut anywhere, and the last position of a sequence that ends inside a document keeps its target.
"""

from typing import Any

import numpy as np
import torch

from lit_long.data.corpus import TokenCorpus
from lit_long.data.plan import StepPlan

IGNORE = -100


def pack_row(
    corpus: TokenCorpus, plan: StepPlan, start: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """One sequence of the plan as tensors.

    Returns:
        input_ids, position_ids, target_ids (int64 [S] each) and the lengths of the pieces.
    """
    inputs, positions, targets, lengths = [], [], [], []
    for begin, end in plan.pieces(start):
        # one token further, if the document has one: the target of the piece's last token
        index = int(np.searchsorted(plan.starts, begin, side="right")) - 1
        more = end < int(plan.starts[index + 1])
        tokens = torch.from_numpy(corpus.read(begin, end + more))
        size = end - begin
        inputs.append(tokens[:size])
        positions.append(torch.arange(size))
        targets.append(tokens[1:] if more else torch.cat([tokens[1:], torch.full((1,), IGNORE)]))
        lengths.append(size)
    return torch.cat(inputs), torch.cat(positions), torch.cat(targets), lengths


def pack_batch(corpus: TokenCorpus, plan: StepPlan, starts: list[int], *, step_target_weight: float) -> dict[str, Any]:
    """The packed batch of the sequences that begin at ``starts``."""
    rows = [pack_row(corpus, plan, start) for start in starts]
    lengths = [size for row in rows for size in row[3]]
    return {
        "input_ids": torch.stack([row[0] for row in rows]),
        "position_ids": torch.stack([row[1] for row in rows]),
        "target_ids": torch.stack([row[2] for row in rows]),
        "cu_seqlens": torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32),
        "max_seqlen": max(lengths),
        "step_target_weight": step_target_weight,
    }
