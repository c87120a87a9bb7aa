"""Attention of a sequence that is split over context-parallel ranks: all keys and values are gathered for each layer.

Forward: K and V of all ranks are gathered, each rank computes attention of its own queries over them. Backward: K and V
are gathered again (kept, they would take the memory that the split is there to save), and the gradients of K and V go
back to the rank that has the token, where they are added in float32. Keys have fewer heads than queries in grouped
attention, so gathering them moves less than exchanging queries does until there are about as many ranks as queries a
key head (docs/parallel.md). There is no limit from the number of heads.

Both directions are operators of torch (``lit_long::context_attention``): activation checkpointing that keeps the
outputs of attention keeps theirs, and gathers nothing a third time.
"""

import itertools
import weakref
from typing import Any

import torch
import torch.distributed as dist

from lit_long.parallel.kernels import run_backward, run_forward
from lit_long.parallel.layout import Layout, Run

Tensor = torch.Tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name since torch 2.13
_NUMBERS = itertools.count(1)
_EXCHANGES: "weakref.WeakValueDictionary[int, GatherExchange]" = weakref.WeakValueDictionary()


class GatherExchange:
    """Attention of one micro-batch on this rank.

    Args:
        layout: which rank has which tokens.
        group: the context-parallel ranks, in the layout's order.
        position_ids: int64 [1, T] positions of this rank's tokens.
    """

    def __init__(self, layout: Layout, group: dist.ProcessGroup, position_ids: Tensor) -> None:
        self.layout, self.group, self.position_ids = layout, group, position_ids
        self.rank = dist.get_rank(group)
        self.runs: list[Run] = layout.runs(self.rank)
        order = torch.from_numpy(layout.order).to(position_ids.device)
        self._order, self._back = order, torch.argsort(order)
        self.number = next(_NUMBERS)
        _EXCHANGES[self.number] = self

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Query [1, T, H, D], key and value [1, T, K, D] of this rank -> [1, T, H, D]."""
        factor = scale if scale is not None else query.shape[-1] ** -0.5
        out, _ = _forward(query[0], key[0], value[0], self.number, factor)
        result: Tensor = out.unsqueeze(0)
        return result

    def gather(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [T, K, D] of all ranks, in the order of the sequence: [ranks * T, K, D] each."""
        both = torch.stack([key, value], dim=1)  # one collective; a token's key and value side by side
        everyone = both.new_empty(self.layout.ranks * both.shape[0], *both.shape[1:])
        _all_gather(everyone, both, group=self.group)
        blocks = everyone.view(-1, self.layout.block, *both.shape[1:])[self._order]
        whole = blocks.view(-1, *both.shape[1:])
        return whole[:, 0], whole[:, 1]

    def hand_back(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients [ranks * T, K, D] that every rank has, to the ranks of the tokens, added in float32: [T, K, D]."""
        both = torch.stack([key, value], dim=1)
        blocks = both.view(-1, self.layout.block, *both.shape[1:])[self._back]
        parts = blocks.view(self.layout.ranks, self.layout.local_tokens, *both.shape[1:])
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=self.group)
        exact = torch.float64 if key.dtype == torch.float64 else torch.float32
        total = received[0].to(exact)
        for part in received[1:]:
            total += part
        mine = total.to(key.dtype)
        return mine[:, 0], mine[:, 1]


@torch.library.custom_op("lit_long::context_attention", mutates_args=())
def _forward(query: Tensor, key: Tensor, value: Tensor, exchange: int, scale: float) -> tuple[Tensor, Tensor]:
    here = _EXCHANGES[exchange]
    keys, values = here.gather(key, value)
    outs, logs = [], []
    for run in here.runs:
        part = slice(run.key_start, run.key_stop)
        mine = query[run.local : run.local + run.tokens]
        out, log = run_forward(mine, keys[part], values[part], run, scale)
        outs.append(out)
        logs.append(log)
    # results of an operator may not share memory with its inputs or with each other
    return (torch.cat(outs) if len(outs) > 1 else outs[0].clone()), torch.cat(logs, dim=1)


@_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, exchange: int, scale: float) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return torch.empty_like(query), query.new_empty((query.shape[1], query.shape[0]), dtype=dtype)


@torch.library.custom_op("lit_long::context_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, exchange: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    here = _EXCHANGES[exchange]
    keys, values = here.gather(key, value)
    dkeys, dvalues = torch.zeros_like(keys), torch.zeros_like(values)
    dqueries = []
    for run in here.runs:
        part, mine = slice(run.key_start, run.key_stop), slice(run.local, run.local + run.tokens)
        dq, dk, dv = run_backward(
            grad[mine], query[mine], keys[part], values[part], out[mine], lse[:, mine], run, scale
        )
        dqueries.append(dq)
        dkeys[part] += dk
        dvalues[part] += dv
    dkey, dvalue = here.hand_back(dkeys, dvalues)
    return (torch.cat(dqueries) if len(dqueries) > 1 else dqueries[0].clone()), dkey.clone(), dvalue.clone()


@_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, exchange: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, exchange, scale = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.exchange, ctx.scale = _EXCHANGES[exchange], scale  # the next micro-batch must not drop it


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    dq, dk, dv = _backward(grad, *ctx.saved_tensors, ctx.exchange.number, ctx.scale)
    return dq, dk, dv, None, None


_forward.register_autograd(_gradients, setup_context=_setup)
