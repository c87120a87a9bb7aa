"""Proof that a model's logits are what our loss assumes: scaled and capped as its config says, and nothing else."""

from typing import Any

import torch
from torch import nn

from lit_long.attention import attention_trial
from lit_long.errors import UserError
from lit_long.model.forward import hidden_states, in_forward, output_transform, unwrapped

PROBE_TOKENS = 16
PROBE_RANGE = 100.0  # beyond the logit caps in use (Gemma 2: 30)


@torch.no_grad()
def check_output_layer(model: Any) -> float:
    """Prove on a probe that logits are the linear map of the hidden states, scaled and capped as the config says.

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
        with attention_trial(inner, "sdpa"):  # a kernel that was pinned for the dtype of training may refuse this one
            own = model(**batch, use_cache=False).logits.float()  # through the wrapper: it may be what is sharded
            raw = in_forward(model, lambda: nn.functional.linear(hidden_states(inner, batch), head.weight, head.bias))
    finally:
        hook.remove()
        for module, training in modes:
            module.training = training
    transform = output_transform(inner.config)
    ours = raw.float() * gain * transform.scale
    if transform.softcap is not None:
        ours = transform.softcap * torch.tanh(ours / transform.softcap)
    difference = float((own - ours).abs().max() / own.abs().max().clamp(min=1e-6))
    rounding = 1e-3 if raw.dtype in (torch.float32, torch.float64) else 2e-2
    if difference > rounding:
        raise UserError(
            f"{inner.config.model_type}: its logits are not the output embedding times the hidden state, scaled and "
            f"capped as its config says ({transform}): they differ by {difference:.1%} of their range, so the chunked "
            f"loss would train another function. This model type is not supported"
        )
    return difference
