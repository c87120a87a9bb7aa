"""Losses and hits of single tokens on the model that is being trained, however it is sharded.

Reports evaluate a model at rest (:mod:`lit_long.evaluation.token_nll`). Inside a run, parameters may be sharded over
ranks, rows dealt to data-parallel ranks and each row cut over context-parallel ones. So every rank runs the same number
of forward passes, each keeps the tokens that it has, and the sum over all ranks puts them together: exactly one rank
adds a value to each place, all others add zero.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_long.errors import UserError
from lit_long.model.forward import hidden_states, in_forward, output_transform, unwrapped

_IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Where this process stands among those of a run; the defaults are a run of one process on a CPU."""

    rank: int = 0
    """Of the data-parallel ranks."""
    replicas: int = 1
    """Data-parallel ranks: each takes other rows."""
    to_device: Callable[[dict[str, Any]], dict[str, Any]] = field(default=lambda batch: batch)
    """This rank's share of a packed batch, on its device."""
    add: Callable[[Tensor], Tensor] = field(default=lambda values: values)
    """Sum of a tensor over **all** ranks."""
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Context of a forward pass, such as autocast."""
    device: torch.device = field(default=torch.device("cpu"))


@dataclass(frozen=True)
class TokenScores:
    """Of every target of N rows, on the CPU; 0 where a row has none."""

    nll: Tensor
    """float32 [N, S]: loss in nats; column i is token i + 1 given the i + 1 tokens before it."""
    hit: Tensor
    """bool [N, S]: the token is the most likely one, so greedy decoding would give it."""


def score_tokens(
    model: Any,
    ids: Tensor,
    *,
    ranks: Ranks | None = None,
    wanted: Tensor | None = None,
    logit_chunk: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> TokenScores:
    """Score N rows of tokens on a live model; the same result on every rank.

    Training is not disturbed: modes of all modules are put back, nothing is drawn from torch's random generators (or it
    is put back), no gradient is touched.

    Args:
        model: a transformers causal LM, bare, in a peft wrapper, or sharded with ``fully_shard`` (FSDP2).
        ids: int64 [N, S + 1], one document a row.
        ranks: where this process stands; every rank calls with the same ``ids``.
        wanted: bool [N, S], the targets to score; default: all. Only their logits are computed.
        logit_chunk: tokens whose logits exist at one time.
        progress: called with the number of input tokens just finished, of all ranks.

    Raises:
        UserError: a loss is NaN or infinite.
    """
    place = ranks or Ranks()
    N, S = ids.shape[0], ids.shape[1] - 1
    # [2, N, S]: losses, hits
    found = torch.zeros(2, N, S, dtype=torch.float32, device=place.device)
    modes = [(module, module.training) for module in model.modules()]
    devices = [place.device] if place.device.type == "cuda" else []
    try:
        model.eval()
        with torch.random.fork_rng(devices), torch.no_grad():
            for first in range(0, N, place.replicas):
                row = first + place.rank
                batch = place.to_device(_batch(ids, min(row, N - 1), wanted if row < N else torch.zeros(N, S).bool()))
                with place.precision():
                    nll, hit = in_forward(model, partial(_scores, model, batch, logit_chunk))
                if row < N:
                    real = batch["target_ids"].flatten() != _IGNORE
                    columns = batch["column"].flatten()[real]
                    found[0, row, columns], found[1, row, columns] = nll, hit.float()
                if progress is not None:
                    progress(min(place.replicas, N - first) * S)
    finally:
        for module, training in modes:
            module.training = training
    both = place.add(found).cpu()
    if not both.isfinite().all():
        row, column = (~both[0].isfinite()).nonzero()[0].tolist()
        raise UserError(
            f"evaluation: the loss of row {row} at position {column + 1} is {both[0, row, column].item()}; the model "
            f"is broken there, and no mean of it would say anything"
        )
    return TokenScores(both[0], both[1] > 0.5)


def _batch(ids: Tensor, row: int, wanted: Tensor | None) -> dict[str, Any]:
    """A packed batch of one row, with the column of each token beside it."""
    S = ids.shape[1] - 1
    targets = ids[row : row + 1, 1:].clone()
    if wanted is not None:
        targets[~wanted[row : row + 1]] = _IGNORE
    count = torch.arange(S)[None]
    return {
        "input_ids": ids[row : row + 1, :-1].contiguous(),
        "position_ids": count,
        "target_ids": targets,
        "column": count.clone(),
        "cu_seqlens": torch.tensor([0, S], dtype=torch.int32),
        "max_seqlen": S,
    }


def _scores(model: Any, batch: dict[str, Any], logit_chunk: int) -> tuple[Tensor, Tensor]:
    """Loss float32 [targets] and hit bool [targets] of the batch's targets, in their order."""
    inner = unwrapped(model)
    head, transform = inner.get_output_embeddings(), output_transform(inner.config)
    states = hidden_states(model, batch).flatten(0, 1)
    targets = batch["target_ids"].flatten()
    real = targets != _IGNORE
    states, targets = states[real], targets[real]
    losses: list[Tensor] = [states.new_zeros(0, dtype=torch.float32)]
    hits: list[Tensor] = [targets.new_zeros(0, dtype=torch.bool)]
    for part, target in _chunks(states, targets, logit_chunk):
        # float() because a bf16 log-sum-exp over 10^5 words is off by more than the differences measured here
        logits = torch.nn.functional.linear(part, head.weight, getattr(head, "bias", None)).float() * transform.scale
        if transform.softcap is not None:
            logits = transform.softcap * torch.tanh(logits / transform.softcap)
        losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
        hits.append(logits.argmax(dim=-1) == target)
    return torch.cat(losses), torch.cat(hits)


def _chunks(states: Tensor, targets: Tensor, size: int) -> Sequence[tuple[Tensor, Tensor]]:
    return list(zip(states.split(size), targets.split(size), strict=True)) if len(targets) else []
