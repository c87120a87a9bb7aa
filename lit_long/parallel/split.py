"""Cut a packed micro-batch into this rank's share."""

from typing import Any

import torch
import torch.distributed as dist

from lit_long.errors import UserError
from lit_long.parallel.layout import Layout, plan_layout

_FILL = {"target_ids": -100}  # of padding; 0 elsewhere
_NOT_SPLIT = {
    "labels": "are not shifted yet, so the last target of a share would be lost; give target_ids, where position i has "
    "the target of token i (-100: none)",
    "attention_mask": "is for padding; pack documents and give position_ids that restart at 0 in each",
}


def split_batch(batch: dict[str, Any], group: dist.ProcessGroup) -> tuple[dict[str, Any], Layout]:
    """This rank's share of a packed batch, and how the batch is divided.

    Args:
        batch: ``input_ids`` and ``position_ids`` int64 [B, S] (positions restart at 0 in each document) or
            ``cu_seqlens`` beside them, and any other tensors [B, S, ...], which are cut alike.
        group: the context-parallel ranks, all of which have this batch.

    Returns:
        The share: tensors [1, T, ...] with T tokens on every rank and no ``cu_seqlens``; values that are no tensors of
        tokens are handed through. And what counts work without them: ``causal_pairs`` ((query, key) pairs of this
        rank), ``tokens_per_rank`` (without padding, the mean) and ``sequence_length`` (S).

    Raises:
        UserError: labels or a mask, which cannot be cut, or boundaries that do not fit the tokens.
    """
    for name, why in _NOT_SPLIT.items():
        if batch.get(name) is not None:
            raise UserError(f"context parallelism: the batch's {name!r} {why}")
    ids, positions = batch["input_ids"], batch.get("position_ids")
    rows, length = ids.shape
    if positions is None:
        raise UserError("context parallelism: the batch has no position_ids; give int64 [B, S] that restart at 0")
    if positions.ndim != 2 or positions.shape[1] != length or positions.shape[0] not in (1, rows):
        raise UserError(
            f"context parallelism: position_ids is {list(positions.shape)}; it must be [{rows} or 1, {length}], as "
            f"input_ids is {list(ids.shape)}"
        )
    batch = {**batch, "position_ids": positions.expand(rows, length)}  # rows may share theirs
    positions = batch["position_ids"]
    cuts = _cuts(batch.get("cu_seqlens"), positions, rows, length)
    layout = plan_layout(cuts, dist.get_world_size(group))
    rank = dist.get_rank(group)
    index = torch.from_numpy(layout.index(rank))
    real = index < layout.tokens
    share: dict[str, Any] = {}
    for name, value in batch.items():
        if name in ("cu_seqlens", "max_seqlen"):
            continue
        if isinstance(value, torch.Tensor) and value.ndim >= 2 and tuple(value.shape[:2]) == (rows, length):
            part = value.flatten(0, 1)[index.clamp(max=layout.tokens - 1).to(value.device)]
            if not bool(real.all()):
                filler = index - layout.tokens if name == "position_ids" else _FILL.get(name, 0)
                part[~real] = filler[~real].to(part) if isinstance(filler, torch.Tensor) else filler
            value = part.unsqueeze(0)
        share[name] = value
    padding = (index - layout.tokens + 1).clamp(min=0).sum()  # its pairs, no work that anybody asked for
    share |= {
        "causal_pairs": int(layout.pairs()[rank]) - int(padding),
        "tokens_per_rank": layout.tokens / layout.ranks,
        "sequence_length": length,
    }
    return share, layout


def _cuts(cu_seqlens: torch.Tensor | None, positions: torch.Tensor, rows: int, length: int) -> list[int]:
    starts = range(0, rows * length + 1, length)
    if cu_seqlens is not None:
        cuts = [int(cut) for cut in cu_seqlens.tolist()]
        if cuts[-1] != rows * length or not set(cuts).issuperset(starts):
            raise UserError(
                f"context parallelism: cu_seqlens ends at {cuts[-1]}; it must cover {rows} x {length} tokens and hold "
                f"every row's start"
            )
        return cuts
    begins = torch.ones(rows, length, dtype=torch.bool, device=positions.device)
    begins[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    return [*begins.flatten().nonzero().squeeze(1).tolist(), rows * length]
