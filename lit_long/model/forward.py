"""From a packed batch to its loss: hidden states of the decoder, then the chunked loss on the output embedding.

The decoder and the output layer are called apart so that S x V logits are never made. That is only right for models
whose logits are a plain linear map of the last hidden state; :func:`check_output_layer` proves it against the model's
own ``forward`` on a short probe (Gemma 2 caps its logits, Cohere and Granite scale them).
"""

from typing import Any

import torch
from torch import nn

from lit_long.errors import UserError
from lit_long.loss import linear_cross_entropy

PROBE_TOKENS = 16
PROBE_RANGE = 100.0  # beyond the logit caps in use (Gemma 2: 30)


def unwrapped(model: Any) -> Any:
    """The transformers model inside a peft wrapper, or the model itself."""
    # peft leaves its peft_config on the inner model, too
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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


def next_token_loss(model: Any, batch: dict[str, Any], *, chunk_size: int = 1024) -> torch.Tensor:
    """Sum of the (weighted) target losses of a packed batch, in nats; a scalar with gradient.

    Args:
        model: a transformers causal LM, bare or in a peft wrapper.
        batch: see :mod:`lit_long.data.packing`; ``target_weights`` [B, S] is optional.
        chunk_size: tokens whose logits exist at once.
    """
    head = unwrapped(model).get_output_embeddings()
    return linear_cross_entropy(
        hidden_states(model, batch),
        head.weight,
        batch["target_ids"],
        bias=getattr(head, "bias", None),
        target_weights=batch.get("target_weights"),
        chunk_size=chunk_size,
    )


@torch.no_grad()
def check_output_layer(model: Any) -> float:
    """Prove on a probe that logits are a plain linear map of the hidden states.

    Returns:
        The largest difference from the model's own logits, as a share of their range.

    Raises:
        UserError: they differ, so that our loss would be another function than the model's.
    """
    inner = unwrapped(model)
    head = inner.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(f"{inner.config.model_type}: the output layer is a {type(head).__name__}, not a linear layer")
    vocab = inner.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(PROBE_TOKENS, device=head.weight.device) * 97 % vocab).unsqueeze(0)
    batch = {"input_ids": ids, "position_ids": torch.arange(PROBE_TOKENS, device=ids.device).unsqueeze(0)}
    modes = [(module, module.training) for module in inner.modules()]
    # logits of a fresh model are far below any cap and would pass: enlarge them behind the output layer
    gain = 1.0

    def enlarge(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal gain
        gain = PROBE_RANGE / max(float(output.abs().max()), 1e-6)
        return output * gain

    hook = head.register_forward_hook(enlarge)
    try:
        inner.eval()
        own = inner(**batch, use_cache=False).logits.float() / gain
        ours = nn.functional.linear(hidden_states(inner, batch), head.weight, head.bias).float()
    finally:
        hook.remove()
        for module, training in modes:
            module.training = training
    difference = float((own - ours).abs().max() / own.abs().max().clamp(min=1e-6))
    if difference > 1e-3:
        raise UserError(
            f"{inner.config.model_type}: its logits are not the output embedding times the hidden state (they differ "
            f"by {difference:.1%} of their range; a logit cap or scale?), so the chunked loss would train another "
            f"function. This model type is not supported"
        )
    return difference
