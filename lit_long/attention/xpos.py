"""xPos: queries and keys scaled by their position, so that scores decay with distance (``lit_long.rope.XPosABF``).

Query at position m and key at n are multiplied by ``zeta_j^(m/s)`` and ``zeta_j^(-n/s)`` in both dimensions of rotary
pair j (``s`` scale base); their product holds ``zeta_j^((m-n)/s)``. Over a long document the two factors alone leave
the range of floats, so positions are counted from the middle of each document, which no score can tell.

Shapes: B rows, H query heads, K key/value heads, T tokens, D head dimension, R rotary dimensions.
"""

import weakref
from typing import Any

import torch
from torch import nn

from lit_long.attention.boundaries import Boundaries
from lit_long.errors import UserError
from lit_long.rope.formulas import xpos_decay
from lit_long.rope.xpos import rotary_dimensions, xpos_scale_base


def xpos_scale(
    query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor, scale_base: float, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale rotated queries and keys.

    Args:
        query: [B, H, T, D], rotary pairs (j, j + R/2) first, as in Llama.
        key: [B, K, T, D].
        positions: float [B or 1, T], counted from anywhere, the same for all tokens of a document.
        scale_base: tokens over which frequency j decays by ``zeta_j``.
        dim: R; dimensions beyond are left alone.

    Returns:
        Query and key, in their own dtypes.
    """
    up, down = _factors(positions, scale_base, dim, query.shape[-1])
    return (query * up).to(query.dtype), (key * down).to(key.dtype)


def _factors(positions: torch.Tensor, scale_base: float, dim: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of queries and of keys, [B or 1, 1, T, D], in the dtype of ``positions``."""
    bits = xpos_decay(dim, scale_base).log2().to(positions)
    exponents = (positions[..., None] * bits)[:, None]
    rest = exponents.new_zeros(*exponents.shape[:-1], head_dim - dim)
    exponents = torch.cat([exponents, exponents, rest], dim=-1)
    return torch.exp2(exponents), torch.exp2(-exponents)


def centred_positions(
    bounds: Boundaries, position_ids: torch.Tensor | None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Positions counted from the middle of their document, [B, T]; without waiting for the device.

    Args:
        bounds: where documents begin.
        position_ids: int64 [B or 1, T] positions as the rotation has them; None: one a token.
        dtype: of the result; whole and half numbers are exact.
    """
    cuts = bounds.cu_seqlens.long()
    index = torch.arange(bounds.rows * bounds.tokens, device=cuts.device)
    document = (torch.searchsorted(cuts, index, right=True) - 1).clamp(0, len(cuts) - 2)
    positions = index if position_ids is None else position_ids.expand(bounds.rows, -1).flatten()
    ends = positions[cuts[document]] + positions[cuts[document + 1] - 1]
    return (positions.to(dtype) - ends.to(dtype) / 2).view(bounds.rows, bounds.tokens)


# of the latest forward pass: its boundaries and positions, what was asked, the factors
_LAST: list[
    tuple["weakref.ref[Boundaries]", torch.Tensor | None, tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]]
] = []


def xpos(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    bounds: Boundaries,
    position_ids: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key as the live config of the attention layer asks: scaled, or untouched without xPos.

    Raises:
        UserError: float16, whose range is too small.
    """
    config = getattr(module, "config", None)
    scale_base = xpos_scale_base(config)
    if scale_base is None or not getattr(module, "use_rope", True):  # SmolLM3 has layers without positions
        return query, key
    if query.dtype == torch.float16:
        raise UserError("xPos scales queries and keys beyond the range of float16; use bf16-mixed or 32-true")
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    shape = (scale_base, rotary_dimensions(config), query.shape[-1])
    version = None if position_ids is None or position_ids.is_inference() else position_ids._version
    asked = (*shape, dtype, version, torch.is_inference_mode_enabled())
    # the layers of a forward pass share the factors, which are also kept for its backward pass
    if not (_LAST and _LAST[0][0]() is bounds and _LAST[0][1] is position_ids and _LAST[0][2] == asked):
        factors = _factors(centred_positions(bounds, position_ids, dtype), *shape)
        _LAST[:] = [(weakref.ref(bounds), position_ids, asked, factors)]
    up, down = _LAST[0][3]
    return (query * up).to(query.dtype), (key * down).to(key.dtype)
