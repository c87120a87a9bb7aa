"""Causal attention in which packed documents do not see each other, and no mask is ever built.

Stock transformers also separates packed documents (it reads restarts in ``position_ids``), but through an S x S mask:
1 GB at 32,768 tokens, and off the fast path of SDPA. Here a kernel for packed documents runs (:mod:`.backends`), or one
causal SDPA call for each document without a mask, so memory grows with S.

Boundaries come from transformers' own flash-attention arguments (``cu_seq_lens_q``), else from restarts in
``position_ids``, so that ``model(input_ids, position_ids=...)`` of anybody's code is enough.

Shapes: B rows, H query heads, K key/value heads, T tokens, D head dimension.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lit_long.attention.backends.case import States
from lit_long.attention.boundaries import boundaries
from lit_long.attention.exchange import Exchange, is_of
from lit_long.attention.select import AttentionReport, Selection
from lit_long.attention.xpos import xpos
from lit_long.errors import UserError
from lit_long.rope.xpos import xpos_scale_base

PACKED = "lit_long_packed"
_SELECTION = "_lit_long_attention"  # on each attention layer: the Selection of its model
_DEFAULT = Selection()  # of layers that were switched by set_attn_implementation alone
# arguments by which models ask for another attention than full causal softmax
_OTHER_ATTENTION = (
    "sliding_window", "softcap", "s_aux", "sinks", "head_mask", "position_bias", "indices", "block_indices",
)  # fmt: skip


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
        **kwargs: ``cu_seq_lens_q`` int32 [documents + 1] over the flattened B*T and ``max_length_q``, or
            ``position_ids`` int64 [B, T].

    Returns:
        [B, T, H, D] and None (attention weights are never made).

    Raises:
        UserError: padding, a key/value cache, an attention that is not full and causal, no word of the boundaries, or
            no kernel for these tensors.
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
    selection: Selection = getattr(module, _SELECTION, None) or _DEFAULT
    exchange, positions = selection.exchange, kwargs.get("position_ids")
    split = exchange is not None and kwargs.get("cu_seq_lens_q") is None
    if split and exchange is not None and is_of(exchange, positions, query.shape[0], query.shape[2]):
        return _exchanged(module, exchange, (query, key, value), scaling, dropout), None
    bounds = boundaries(
        kwargs.get("cu_seq_lens_q"),
        kwargs.get("position_ids"),
        query.shape[0],
        query.shape[2],
        kwargs.get("max_length_q"),
    )
    if bounds is None:
        raise UserError(
            f"{PACKED} got neither cu_seq_lens_q nor position_ids: this model does not hand position_ids on to its "
            f"attention. Pass cu_seq_lens_q and cu_seq_lens_k, too, or set attention: sdpa"
        )
    query, key = xpos(module, query, key, bounds, kwargs.get("position_ids"))
    states = _autocast(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    backend = selection.backend_for(states, bounds, scaling, dropout)
    return backend.run(states, bounds, scaling, dropout), None


def _exchanged(
    module: nn.Module, exchange: Exchange, states: States, scaling: float | None, dropout: float
) -> torch.Tensor:
    if dropout:
        raise UserError("attention dropout and context parallelism exclude each other; set attention_dropout: 0")
    if xpos_scale_base(getattr(module, "config", None)) is not None:
        raise UserError("xPos and context parallelism exclude each other here; set context_parallel_size: 1")
    query, key, value = _autocast(*(state.transpose(1, 2) for state in states))
    return exchange.attend(query, key, value, scaling)


def _autocast(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> States:
    """The tensors in autocast's dtype, where it is on, as it would cast them for torch's own attention.

    Most models rotate queries and keys in the dtype of the residual stream: under ``bf16-mixed`` they come in float32,
    beside bfloat16 values: kernels would be chosen for a dtype that is not the one they run in.
    """
    device = query.device.type
    if not torch.is_autocast_enabled(device) or query.dtype == torch.float64:
        return query, key, value
    dtype = torch.get_autocast_dtype(device)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _padding_mask(*, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """transformers' mask hook: hand a padding mask through, so that :func:`packed_attention` can refuse real padding.

    Without this hook transformers drops the mask of an attention function it does not know, and padding would be seen.
    """
    return attention_mask


def use_packed_attention(model: nn.Module, backend: str = "auto") -> nn.Module:
    """Switch a Hugging Face decoder to :func:`packed_attention`, in place.

    Args:
        model: a transformers causal LM with full causal attention in all layers (also inside a peft wrapper).
        backend: a kernel (:data:`lit_long.attention.BACKENDS`), or ``auto``: at the first batch, the fastest one on its
            shapes whose output and gradients agree with float64.

    Returns:
        The same model.

    Raises:
        UserError: the model has sliding-window, chunked or otherwise not full attention (named), or does not use
            transformers' attention interface; or the backend is not there.
    """
    selection = Selection(backend)
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
    for module in model.modules():
        if hasattr(module, "layer_idx") or hasattr(module, "is_causal"):
            setattr(module, _SELECTION, selection)
    return model


def attention_report(model: nn.Module) -> AttentionReport:
    """What the model's attention runs on; filled by its first batch.

    Raises:
        UserError: the model was not switched with :func:`use_packed_attention`.
    """
    for module in model.modules():
        if (selection := getattr(module, _SELECTION, None)) is not None:
            report: AttentionReport = selection.report
            return report
    raise UserError(f"{type(model).__name__} was not switched to packed attention; call use_packed_attention first")


def set_exchange(model: nn.Module, exchange: Exchange | None) -> int:
    """Let the attention of a module's models work on a split sequence, until it is told otherwise.

    Args:
        model: anything with models inside that were switched with :func:`use_packed_attention`.
        exchange: of the next forward passes; None: sequences are whole.

    Returns:
        How many models there are.
    """
    found = {id(s): s for m in model.modules() if (s := getattr(m, _SELECTION, None)) is not None}
    for selection in found.values():
        selection.exchange = exchange
    return len(found)


@contextmanager
def attention_trial(model: nn.Module, backend: str | None = None) -> Iterator[AttentionReport | None]:
    """Kernels chosen inside are forgotten afterwards, so that a probe's few tokens decide nothing for real lengths.

    Args:
        model: a model, switched to packed attention or not.
        backend: the kernel to take inside; default: as the model was told.

    Yields:
        The report of what is chosen inside; None for a model that was not switched.
    """
    found = (getattr(module, _SELECTION, None) for module in model.modules())
    selection: Selection | None = next((one for one in found if one is not None), None)  # its layers share one
    if selection is None:
        yield None
        return
    before = selection.report
    selection.report = AttentionReport(backend or before.asked)
    try:
        yield selection.report
    finally:
        selection.report = before
