"""What a backend is, and what it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lit_long.attention.boundaries import Boundaries

Function = Callable[..., Any]
States = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # query, key, value


@dataclass(frozen=True)
class AttentionCase:
    """Everything that decides whether a kernel can be used, and how fast it is but for the length.

    Attributes:
        device: where the tensors are.
        dtype: theirs.
        heads: query heads.
        kv_heads: key/value heads.
        head_dim: of queries and keys.
        value_dim: of values.
        packed: whether a row holds several documents.
        dropout: whether attention drops out.
    """

    device: torch.device
    dtype: torch.dtype
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    packed: bool
    dropout: bool


@dataclass(frozen=True)
class AttentionBackend:
    """One kernel.

    Attributes:
        name: as in ``backend=``.
        missing: why it cannot be used on this machine at all, or None.
        refuses: why it cannot be used for a case, or None (``missing`` has been asked).
        run: (query [B, T, H, D], key [B, T, K, D], value [B, T, K, E]), boundaries, scale or None, dropout probability
            -> [B, T, H, E]; causal within each document.
    """

    name: str
    missing: Callable[[], str | None]
    refuses: Callable[[AttentionCase], str | None]
    run: Callable[[States, Boundaries, float | None, float], torch.Tensor]

    def why_not(self, case: AttentionCase) -> str | None:
        """Why it cannot be used, or None."""
        return self.missing() or self.refuses(case)


def half_precision_on_cuda(case: AttentionCase) -> str | None:
    """What flash kernels ask for."""
    if case.device.type != "cuda":
        return f"its kernels are for CUDA, the tensors are on {case.device.type}"
    if case.dtype not in (torch.bfloat16, torch.float16):
        return f"it takes bfloat16 and float16, the tensors are {str(case.dtype).removeprefix('torch.')}"
    if case.head_dim > 256 or case.head_dim != case.value_dim:
        return f"it takes one head dimension up to 256, found {case.head_dim} and {case.value_dim}"
    return None


def flattened(tensor: torch.Tensor) -> torch.Tensor:
    """[B, T, H, D] as [B * T, H, D], the last dimension contiguous; a view where that is possible."""
    flat = tensor.flatten(0, 1)
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def repeated_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Key/value heads [..., K, D] repeated to the query's [..., H, D]."""
    return tensor if tensor.shape[-2] == heads else tensor.repeat_interleave(heads // tensor.shape[-2], dim=-2)
