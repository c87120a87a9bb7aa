"""Causal attention in which packed documents do not see each other, and no mask is ever built.

Stock transformers also separates packed documents (it reads restarts in ``position_ids``), but through an S x S mask:
1 GB at 32,768 tokens, and off the fast path of SDPA. Here every document is one causal SDPA call without a mask, on
whatever kernel PyTorch has for the device (the flash kernel on CPU and CUDA), so memory grows with S.

Boundaries come from transformers' own flash-attention arguments (``cu_seq_lens_q``), else from restarts in
``position_ids``, so that ``model(input_ids, position_ids=...)`` of anybody's code is enough.

Shapes: B rows, H query heads, K key/value heads, T tokens, D head dimension.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lit_long.errors import UserError

PACKED = "lit_long_packed"
# arguments by which models ask for another attention than full causal softmax
_OTHER_ATTENTION = ("sliding_window", "softcap", "s_aux", "head_mask")


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function, in the signature of transformers' attention interface.

    Args:
        module: the attention layer that calls.
        query: [B, H, T, D].
        key: [B, K, T, D], H a multiple of K.
        value: [B, K, T, D].
        attention_mask: must be None, or a [B, T] padding mask that masks nothing.
        dropout: attention dropout probability.
        scaling: factor on q·k; default 1/sqrt(D).
        **kwargs: ``cu_seq_lens_q`` int32 [documents + 1] over the flattened B*T, or ``position_ids`` int64 [B, T].

    Returns:
        [B, T, H, D] and None (attention weights are never made).

    Raises:
        UserError: padding, a key/value cache, an attention that is not full and causal, or no word of the boundaries.
    """
    if not getattr(module, "is_causal", True) or kwargs.get("is_causal") is False:
        raise UserError(f"{type(module).__name__} is not causal; use attn_implementation='sdpa' for this model")
    for name in _OTHER_ATTENTION:
        if kwargs.get(name) is not None:
            raise UserError(
                f"{type(module).__name__} asks for attention with {name}={kwargs[name]!r}; {PACKED} is full causal "
                f"attention only. Use attn_implementation='sdpa' for this model"
            )
    if query.shape[2] != key.shape[2]:
        raise UserError(
            f"{PACKED} got {query.shape[2]} queries and {key.shape[2]} keys (a key/value cache); it is for training "
            f"and teacher-forced evaluation. Pass use_cache=False, or generate with attn_implementation='sdpa'"
        )
    if attention_mask is not None and (attention_mask.ndim != 2 or not bool(attention_mask.all())):
        raise UserError(f"{PACKED} takes no padding or custom mask; pack documents and pass position_ids instead")
    rows, tokens = query.shape[0], query.shape[2]
    options: dict[str, Any] = {"is_causal": True, "dropout_p": dropout, "scale": scaling}
    if query.shape[1] != key.shape[1]:
        options["enable_gqa"] = True
    bounds = _boundaries(kwargs.get("cu_seq_lens_q"), kwargs.get("position_ids"), rows, tokens)
    if bounds is None:
        return F.scaled_dot_product_attention(query, key, value, **options).transpose(1, 2), None
    # written per document and concatenated per row: in-place slices would cost the backward pass a full copy each
    out = []
    for row, cuts in enumerate(bounds):
        parts = [
            F.scaled_dot_product_attention(
                query[row : row + 1, :, a:b], key[row : row + 1, :, a:b], value[row : row + 1, :, a:b], **options
            )
            for a, b in pairwise(cuts)
        ]
        out.append(torch.cat(parts, dim=2))
    return torch.cat(out, dim=0).transpose(1, 2), None


def _boundaries(
    cu_seqlens: torch.Tensor | None, position_ids: torch.Tensor | None, rows: int, tokens: int
) -> list[list[int]] | None:
    """Document boundaries of each row, 0 and ``tokens`` included; None if every row is one document.

    Raises:
        UserError: boundaries that do not fit the rows, or none at all: documents would silently see each other.
    """
    if cu_seqlens is not None:
        cuts = set(cu_seqlens.tolist())
        if max(cuts) != rows * tokens or not cuts.issuperset(range(0, rows * tokens + 1, tokens)):
            raise UserError(
                f"cu_seq_lens_q is {sorted(cuts)}; it must cover {rows} x {tokens} tokens and hold every row's start"
            )
        marks = sorted(cuts)
    elif position_ids is not None:
        # rows may share one [1, T]; a document begins wherever the position does not continue the one before
        breaks = (position_ids[:, 1:] != position_ids[:, :-1] + 1).expand(rows, -1).nonzero()
        marks = sorted({r * tokens for r in range(rows + 1)} | {r * tokens + t + 1 for r, t in breaks.tolist()})
    else:
        raise UserError(
            f"{PACKED} got neither cu_seq_lens_q nor position_ids: this model does not hand position_ids on to its "
            f"attention. Pass cu_seq_lens_q and cu_seq_lens_k, too, or set attention: sdpa"
        )
    if len(marks) == rows + 1:
        return None
    return [[m - r * tokens for m in marks if r * tokens <= m <= (r + 1) * tokens] for r in range(rows)]


def _padding_mask(*, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """transformers' mask hook: hand a padding mask through, so that :func:`packed_attention` can refuse real padding.

    Without this hook transformers drops the mask of an attention function it does not know, and padding would be seen.
    """
    return attention_mask


def use_packed_attention(model: nn.Module) -> nn.Module:
    """Switch a Hugging Face decoder to :func:`packed_attention`, in place.

    Args:
        model: a transformers causal LM with full causal attention in all layers (also inside a peft wrapper).

    Returns:
        The same model.

    Raises:
        UserError: the model has sliding-window, chunked or otherwise not full attention (named), or does not use
            transformers' attention interface.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _padding_mask)
    config: Any = model.config
    kinds = sorted({str(kind) for kind in (getattr(config, "layer_types", None) or [])} - {"full_attention"})
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False or (getattr(config, "layer_types", None) and not kinds):
        window = None
    if kinds or window is not None:
        what = f"layers of type {kinds}" if kinds else f"sliding_window={window}"
        raise UserError(
            f"{config.model_type} has {what}; packed attention is full causal attention and would silently change the "
            f"model. Set attention: sdpa (and one document per sequence), or take a model with full attention"
        )
    model.set_attn_implementation(PACKED)  # type: ignore[operator]
    if config._attn_implementation != PACKED:  # transformers only warns
        raise UserError(
            f"{config.model_type} does not use transformers' attention interface, so its attention cannot be switched; "
            f"set attention: sdpa"
        )
    return model
