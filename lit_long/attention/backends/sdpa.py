"""PyTorch's scaled_dot_product_attention: a call for each document, without a mask; and cuDNN's kernel for single ones.

The math kernel, which holds S x S scores, is never taken: on CUDA it is ruled out by name, on a CPU by refusing what
the flash kernel there does not do.
"""

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lit_long.attention.backends.case import AttentionBackend, AttentionCase, States, repeated_heads
from lit_long.attention.boundaries import Boundaries

_LINEAR_MEMORY = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, dropout: float
) -> torch.Tensor:
    """[B, H, T, D] each; on CUDA only kernels whose memory grows with T."""
    grouped = query.shape[1] != key.shape[1]
    if query.device.type != "cuda":
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=grouped
        )
    if grouped and query.dtype == torch.float32:
        # flash has no float32, and the memory-efficient kernel no grouped heads
        key, value = (repeated_heads(t.transpose(1, 2), query.shape[1]).transpose(1, 2) for t in (key, value))
        grouped = False
    with sdpa_kernel(_LINEAR_MEMORY):
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=grouped
        )


def _per_document(states: States, bounds: Boundaries, scale: float | None, dropout: float) -> torch.Tensor:
    query, key, value = states
    if bounds.one_per_row:
        return _causal(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale, dropout).transpose(
            1, 2
        )
    # split and cat, not slices: the backward pass of each slice would fill a tensor of the whole row with zeros
    flat = (t.flatten(0, 1).transpose(0, 1).unsqueeze(0).split(bounds.lengths, dim=2) for t in (query, key, value))
    parts = [_causal(q, k, v, scale, dropout) for q, k, v in zip(*flat, strict=True)]
    out = torch.cat([part.transpose(1, 2) for part in parts], dim=1)
    return out.unflatten(1, (bounds.rows, bounds.tokens)).squeeze(0)


def _refuses(case: AttentionCase) -> str | None:
    if case.device.type != "cuda" and (case.dropout or case.head_dim != case.value_dim):
        return (
            f"attention dropout, and values of another width than keys ({case.head_dim}, {case.value_dim}), would go "
            f"through the kernel that holds S x S scores; set attention_dropout: 0, or train on CUDA"
        )
    return None


def _one_document(states: States, bounds: Boundaries, scale: float | None, dropout: float) -> torch.Tensor:
    query, key, value = states
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            is_causal=True,
            scale=scale,
            dropout_p=dropout,
            enable_gqa=query.shape[2] != key.shape[2],
        )
    return out.transpose(1, 2)


def _cudnn_refuses(case: AttentionCase) -> str | None:
    if case.device.type != "cuda":
        return f"cuDNN is for CUDA, the tensors are on {case.device.type}"
    if case.packed:
        return "it has no packed documents; this is for one document a row"
    if case.dtype not in (torch.bfloat16, torch.float16):
        return f"it takes bfloat16 and float16, the tensors are {str(case.dtype).removeprefix('torch.')}"
    return None


SDPA = AttentionBackend("sdpa", lambda: None, _refuses, _per_document)
CUDNN = AttentionBackend("cudnn", lambda: None, _cudnn_refuses, _one_document)
