"""Attention of a run of queries over the keys before it, with the log-sum-exp that its backward pass needs.

A run's queries end where its keys end, so "causal" is aligned at the end (bottom right): the queries of the first
document see the part of it that lies before the run, which another rank holds.

Shapes: T queries, U keys, H query heads, K key/value heads, D head dimension; no batch dimension.
"""

from functools import lru_cache
from itertools import pairwise

import torch

from lit_long.errors import UserError
from lit_long.parallel.layout import Run

Tensor = torch.Tensor
_aten = torch.ops.aten


def run_forward(query: Tensor, key: Tensor, value: Tensor, run: Run, scale: float) -> tuple[Tensor, Tensor]:
    """[T, H, D], [U, K, D], [U, K, D] -> output [T, H, D] and log-sum-exp [H, T], float32 (float64 for float64).

    Raises:
        UserError: no kernel for these tensors.
    """
    if query.device.type == "cuda":
        return _cuda_forward(query, key, value, run, scale)
    parts = [_document_forward(*document, scale) for document in _documents(query, key, value, run)]
    return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts], dim=1)


def run_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, run: Run, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query [T, H, D], key and value [U, K, D] from that of the output."""
    if query.device.type == "cuda":
        return _cuda_backward(grad, query, key, value, out, lse, run, scale)
    grads = []
    for (q, k, v), (g, o), log in zip(
        _documents(query, key, value, run),
        zip(_split(grad, run), _split(out, run), strict=True),
        lse.split([b - a for a, b in pairwise(run.query_cuts)], dim=1),
        strict=True,
    ):
        grads.append(_document_backward(g, q, k, v, o, log, scale))
    dq, dk, dv = zip(*grads, strict=True)
    return torch.cat(dq), torch.cat(dk), torch.cat(dv)


# -- CPU: one document at a time --------------------------------------------------------------------------------------
def _split(tensor: Tensor, run: Run) -> tuple[Tensor, ...]:
    return tensor.split([b - a for a, b in pairwise(run.query_cuts)])


def _documents(query: Tensor, key: Tensor, value: Tensor, run: Run) -> list[tuple[Tensor, Tensor, Tensor]]:
    lengths = [b - a for a, b in pairwise(run.key_cuts)]
    return list(zip(_split(query, run), key.split(lengths), value.split(lengths), strict=True))


def _heads_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).unsqueeze(0)


def _folded(tensor: Tensor, groups: int) -> Tensor:
    """Queries [T, H, D] as [1, K, G*T, D]: heads that share a key/value head become more queries of it."""
    tokens, heads, width = tensor.shape
    return (
        tensor.view(tokens, heads // groups, groups, width).permute(1, 2, 0, 3).reshape(1, heads // groups, -1, width)
    )


def _unfolded(tensor: Tensor, groups: int) -> Tensor:
    """[1, K, G*T, D] as [T, H, D]."""
    _, heads, rows, width = tensor.shape
    return tensor.view(heads, groups, rows // groups, width).permute(2, 0, 1, 3).reshape(-1, heads * groups, width)


def _document_forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    tokens, heads, _ = query.shape
    groups, before = heads // key.shape[1], key.shape[0] - tokens
    own = (_heads_first(t[before:].repeat_interleave(groups, dim=1)) for t in (key, value))
    out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(_heads_first(query), *own, is_causal=True, scale=scale)
    out, lse = out[0].transpose(0, 1), lse[0]
    if not before:
        return out, lse
    earlier, log = _aten._scaled_dot_product_flash_attention_for_cpu(
        _folded(query, groups), _heads_first(key[:before]), _heads_first(value[:before]), scale=scale
    )
    earlier, log = _unfolded(earlier, groups), log.reshape(heads, tokens)
    both = torch.logaddexp(lse, log)
    weights = [torch.exp(part - both).transpose(0, 1).unsqueeze(-1) for part in (lse, log)]
    return (out * weights[0] + earlier * weights[1]).to(query.dtype), both


def _document_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    # with the output and log-sum-exp of all keys, each part's backward pass gives exactly its share of the gradient
    tokens, heads, width = query.shape
    groups, before = heads // key.shape[1], key.shape[0] - tokens
    own = (_heads_first(t[before:].repeat_interleave(groups, dim=1)) for t in (key, value))
    dq, dk, dv = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        _heads_first(grad), _heads_first(query), *own, _heads_first(out), lse.unsqueeze(0), 0.0, True, scale=scale
    )
    dq = dq[0].transpose(0, 1)
    dk, dv = (d[0].transpose(0, 1).reshape(tokens, -1, groups, width).sum(dim=2) for d in (dk, dv))
    if not before:
        return dq, dk, dv
    folded = [_folded(t, groups) for t in (grad, query, out)]
    dq2, dk2, dv2 = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        folded[0], folded[1], _heads_first(key[:before]), _heads_first(value[:before]), folded[2],
        lse.reshape(1, heads // groups, -1), 0.0, False, scale=scale,
    )  # fmt: skip
    first = (torch.cat([d2[0].transpose(0, 1), d]) for d2, d in ((dk2, dk), (dv2, dv)))
    return dq + _unfolded(dq2, groups), *first


# -- CUDA: PyTorch's flash kernel for packed documents ----------------------------------------------------------------
@lru_cache(maxsize=64)  # all layers of a micro-batch ask for the same
def _cuda_cuts(run: Run, device: torch.device) -> tuple[Tensor, Tensor, int, int]:
    cuts = []
    for values in (run.query_cuts, run.key_cuts):
        cuts.append(torch.tensor([v - values[0] for v in values], dtype=torch.int32).to(device, non_blocking=True))
    longest = [max(b - a for a, b in pairwise(values)) for values in (run.query_cuts, run.key_cuts)]
    return cuts[0], cuts[1], longest[0], longest[1]


def _cuda_forward(query: Tensor, key: Tensor, value: Tensor, run: Run, scale: float) -> tuple[Tensor, Tensor]:
    if query.dtype not in (torch.bfloat16, torch.float16) or query.shape[-1] > 256:
        raise UserError(
            f"context parallelism on CUDA runs on flash attention, which takes bfloat16 and float16 and a head "
            f"dimension up to 256; found {query.dtype} and {query.shape[-1]}. Set precision: bf16-mixed"
        )
    cuts_q, cuts_k, longest_q, longest_k = _cuda_cuts(run, query.device)
    out, lse, *_ = _aten._flash_attention_forward(
        query, key, value, cuts_q, cuts_k, longest_q, longest_k, 0.0, True, False, scale=scale
    )
    return out, lse


def _cuda_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, run: Run, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    cuts_q, cuts_k, longest_q, longest_k = _cuda_cuts(run, query.device)
    none = torch.zeros(2, dtype=torch.uint64, device=query.device)  # random state of a dropout that is not there
    dq, dk, dv = _aten._flash_attention_backward(
        grad.contiguous(), query, key, value, out, lse, cuts_q, cuts_k, longest_q, longest_k, 0.0, True, none,
        torch.zeros((), dtype=torch.uint64, device=query.device), scale=scale,
    )  # fmt: skip
    return dq, dk, dv
