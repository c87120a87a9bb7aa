"""From a packed batch to its loss: hidden states of the decoder, then the chunked loss on the output embedding.

The decoder and the output layer are called apart so that S x V logits are never made. That is only right for models
whose logits are a known function of the last hidden state, which :mod:`lit_long.model.output_layer` proves.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from lit_long.loss import LossSums, OutputTransform, linear_cross_entropy
from lit_long.loss.linear import Backend

_SHARDED_FORWARD = "_lit_long_forward"


def unwrapped(model: Any) -> Any:
    """The transformers model inside a peft wrapper, or the model itself."""
    # peft leaves its peft_config on the inner model, too
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def output_transform(config: Any) -> OutputTransform:
    """What a model of this config does to its logits behind the output layer, as transformers names it."""
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return OutputTransform(scale=scale, softcap=None if cap is None else float(cap))


def hidden_states(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Last hidden states [B, S, D] of a packed batch (``input_ids``, ``position_ids``, optionally ``cu_seqlens``)."""
    kwargs: dict[str, Any] = {}
    if batch.get("cu_seqlens") is not None:
        longest = batch.get("max_seqlen") or batch["input_ids"].shape[1]
        kwargs = {
            "cu_seq_lens_q": batch["cu_seqlens"],
            "cu_seq_lens_k": batch["cu_seqlens"],
            "max_length_q": longest,
            "max_length_k": longest,
        }
    decoder = unwrapped(model).get_decoder()
    output = decoder(input_ids=batch["input_ids"], position_ids=batch.get("position_ids"), use_cache=False, **kwargs)
    states: torch.Tensor = output.last_hidden_state
    return states


def next_token_loss(
    model: Any,
    batch: dict[str, Any],
    *,
    chunk_size: int | None = None,
    z_loss: float = 0.0,
    backend: Backend = "auto",
) -> LossSums:
    """Sums of the (weighted) target losses of a packed batch, in nats.

    Args:
        model: a transformers causal LM, bare, in a peft wrapper, or sharded with ``fully_shard`` (FSDP2).
        batch: see :mod:`lit_long.data.packing`; ``target_weights`` [B, S] is optional.
        chunk_size: tokens whose logits exist at once.
        z_loss: factor of the squared log-normaliser.
        backend: who computes it, see :func:`lit_long.loss.linear_cross_entropy`.
    """
    return in_forward(model, partial(_loss, model, batch, chunk_size, z_loss, backend))


def _loss(model: Any, batch: dict[str, Any], chunk_size: int | None, z_loss: float, backend: Backend) -> LossSums:
    inner = unwrapped(model)
    head = inner.get_output_embeddings()
    return linear_cross_entropy(
        hidden_states(model, batch),
        head.weight,
        batch["target_ids"],
        batch.get("target_weights"),
        bias=getattr(head, "bias", None),
        transform=output_transform(inner.config),
        z_loss=z_loss,
        chunk_size=chunk_size,
        backend=backend,
    )


def in_forward(model: Any, function: Callable[[], Any]) -> Any:
    """Call ``function`` as if it were the model's forward pass.

    A model sharded with FSDP2 has whole parameters only inside a forward pass; ours calls the decoder and reads the
    output embedding, which no forward pass of the model encloses.
    """
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

    root: Any = next((module for module in (model, unwrapped(model)) if isinstance(module, FSDPModule)), None)
    if root is None:
        return function()
    if not hasattr(root, _SHARDED_FORWARD):
        setattr(root, _SHARDED_FORWARD, _call)
        register_fsdp_forward_method(root, _SHARDED_FORWARD)
    return getattr(root, _SHARDED_FORWARD)(function)


def _call(function: Callable[[], Any]) -> Any:
    return function()
