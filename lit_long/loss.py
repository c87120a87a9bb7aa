"""Cross-entropy straight from hidden states, in chunks, so that S x V logits never exist.

At 32,768 tokens and a vocabulary of 49,152 the logits alone are 6.4 GB in float32, and as much again in the backward
pass. Here each chunk of tokens makes its logits, takes its part of the loss and of both gradients in the forward pass,
and drops them; the backward pass only scales. Three matrix products in all, as without chunks, and chunk x V memory.

The loss is a **sum** over targets, divided once by a number that the caller knows for the whole optimizer step
(``step_target_weight``). A mean per micro-batch, averaged again over micro-batches and ranks, is not the token mean
when targets are unevenly spread (lightning #20350), and is NaN where a rank has none.

Shapes: T tokens, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

IGNORE = -100


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_T: torch.Tensor,
        target_weights_T: torch.Tensor | None,
        chunk_size: int,
        compute_dtype: torch.dtype,
        with_grad: bool,
    ) -> torch.Tensor:
        accumulate = torch.float64 if compute_dtype == torch.float64 else torch.float32
        loss = torch.zeros((), dtype=accumulate, device=hidden_TD.device)
        # needs_input_grad does not know of torch.no_grad()
        need_hidden, need_weight, need_bias = (with_grad and need for need in ctx.needs_input_grad[:3])
        grad_hidden = torch.zeros_like(hidden_TD) if need_hidden else None
        grad_weight = torch.zeros(weight_VD.shape, dtype=accumulate, device=weight_VD.device) if need_weight else None
        grad_bias = torch.zeros(weight_VD.shape[0], dtype=accumulate, device=weight_VD.device) if need_bias else None
        head = weight_VD.to(compute_dtype)
        for start in range(0, hidden_TD.shape[0], chunk_size):
            rows = slice(start, start + chunk_size)
            target = targets_T[rows]
            counted = target != IGNORE
            # a position that counts nothing must not spoil sum or gradients, whatever its state: 0 * inf is NaN
            hidden = hidden_TD[rows].to(compute_dtype).masked_fill(~counted.unsqueeze(1), 0)
            logits = F.linear(hidden, head).to(accumulate)
            if bias_V is not None:
                logits += bias_V.to(accumulate)
            scale = counted.to(accumulate)
            if target_weights_T is not None:
                scale = scale * target_weights_T[rows].to(accumulate)
            index = target.clamp(min=0).unsqueeze(1)
            normaliser = torch.logsumexp(logits, dim=1, keepdim=True)
            loss += ((normaliser - logits.gather(1, index)).squeeze(1) * scale).sum()
            if not (need_hidden or need_weight or need_bias):
                continue
            grad = logits.sub_(normaliser).exp_()  # softmax, in the logits' own memory
            grad.scatter_add_(1, index, torch.full_like(index, -1, dtype=accumulate))
            grad *= scale.unsqueeze(1)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(compute_dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = (grad @ head).to(hidden_TD.dtype)
            if grad_weight is not None:
                grad_weight += (grad.T @ hidden).to(accumulate)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight_VD.dtype, bias_V.dtype if bias_V is not None else None)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_loss,) = grad_outputs
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else (grad_hidden * grad_loss).to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * grad_loss).to(weight_dtype),
            None if grad_bias is None else (grad_bias * grad_loss).to(bias_dtype),
            *(None,) * 5,
        )


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target_ids: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    target_weights: torch.Tensor | None = None,
    chunk_size: int = 1024,
) -> torch.Tensor:
    """Weighted sum of token cross-entropies of ``hidden @ weight.T``, without holding the logits.

    Args:
        hidden: [..., D] hidden states, any float dtype.
        weight: [V, D] output embedding.
        target_ids: int64 [...], already shifted; -100 counts nothing.
        bias: [V] output bias, or None.
        target_weights: [...] weight of each target, or None for 1; constants, they get no gradient.
        chunk_size: tokens whose logits exist at once; peak memory is about 2 * chunk_size * V floats.

    Returns:
        Scalar, nats; float32 (float64 for float64 input). Divide by the step's target weight for the token mean.

    Raises:
        ValueError: shapes do not fit, or a target is outside the vocabulary.
    """
    vocab = weight.shape[0]
    if hidden.shape[:-1] != target_ids.shape:
        raise ValueError(f"hidden is {tuple(hidden.shape)}, target_ids {tuple(target_ids.shape)}; all but D must agree")
    if hidden.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != (vocab,)):
        has_bias = "" if bias is None else f", bias {tuple(bias.shape)}"
        raise ValueError(f"hidden is {tuple(hidden.shape)}, weight {tuple(weight.shape)}{has_bias}; D and V must agree")
    if target_weights is not None and target_weights.shape != target_ids.shape:
        raise ValueError(f"target_weights is {tuple(target_weights.shape)}, target_ids {tuple(target_ids.shape)}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1")
    if target_ids.device.type == "cpu":  # on a GPU the look would wait for it
        outside = target_ids[((target_ids < 0) & (target_ids != IGNORE)) | (target_ids >= vocab)]
        if outside.numel():
            raise ValueError(f"target {int(outside[0])} is outside the vocabulary of {vocab}; {IGNORE} counts nothing")
    device_type = hidden.device.type
    autocast = torch.is_autocast_enabled(device_type)
    compute_dtype = torch.get_autocast_dtype(device_type) if autocast else weight.dtype
    with torch.autocast(device_type, enabled=False):
        loss: torch.Tensor = _ChunkedCrossEntropy.apply(
            hidden.reshape(-1, hidden.shape[-1]),
            weight,
            bias,
            target_ids.reshape(-1),
            None if target_weights is None else target_weights.reshape(-1),
            chunk_size,
            compute_dtype,
            torch.is_grad_enabled(),
        )
    return loss
