"""Our own chunked linear cross-entropy: any weights, z-loss, capped logits; one chunk x V buffer.

Each chunk of tokens makes its logits, takes its part of the loss and of all gradients in the forward pass, and drops
them; the backward pass only scales. Three matrix products, as without chunks.

The softmax is left without its row sums: with p = exp(logits - max) and row sums z, the gradients
``diag(w / z) (p - z onehot) @ head`` and ``(p - z onehot).T @ diag(w / z) hidden`` need the division on T x D numbers
and not on T x V, which leaves three passes over the logits (max, exp, sum) beside the products.

Shapes: T tokens, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lit_long.loss.targets import IGNORE, OutputTransform

# bytes of one chunk of logits: small enough to stay near the caches of a CPU, large enough to fill a GPU
CPU_CHUNK_BYTES, GPU_CHUNK_BYTES = 48 << 20, 512 << 20
_LEAST, _MOST = 64, 4096


def default_chunk_size(vocab_size: int, device: torch.device) -> int:
    """Tokens in a chunk whose float32 logits take about 48 MiB on a CPU, 512 MiB on a GPU; a multiple of 64."""
    size = (CPU_CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES) // (4 * vocab_size)
    return max(_LEAST, min(_MOST, size // 64 * 64))


class ChunkedCrossEntropy(torch.autograd.Function):
    """Returns the weighted sum of cross-entropy and z-loss, and the z-loss in it (no gradient of its own)."""

    @staticmethod
    def forward(  # noqa: D102 - autograd's
        ctx: Any,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_T: torch.Tensor,
        target_weights_T: torch.Tensor | None,
        transform: OutputTransform,
        z_loss: float,
        chunk_size: int,
        compute_dtype: torch.dtype,
        with_grad: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sums = torch.float64 if compute_dtype == torch.float64 else torch.float32
        loss, z_part = (torch.zeros((), dtype=sums, device=hidden_TD.device) for _ in range(2))
        # needs_input_grad does not know of torch.no_grad()
        need_hidden, need_weight, need_bias = (with_grad and need for need in ctx.needs_input_grad[:3])
        grad_hidden = torch.zeros_like(hidden_TD) if need_hidden else None
        grad_weight = torch.zeros(weight_VD.shape, dtype=sums, device=weight_VD.device) if need_weight else None
        grad_bias = torch.zeros(weight_VD.shape[0], dtype=sums, device=weight_VD.device) if need_bias else None
        head = weight_VD.to(compute_dtype)
        chunk_size = min(chunk_size, max(1, hidden_TD.shape[0]))
        buffer = torch.empty(chunk_size, head.shape[0], dtype=compute_dtype, device=head.device)
        for start in range(0, hidden_TD.shape[0], chunk_size):
            rows = slice(start, start + chunk_size)
            target = targets_T[rows]
            counted = target != IGNORE
            scale = counted.to(sums)
            if target_weights_T is not None:
                scale = scale * target_weights_T[rows].to(sums).masked_fill(~counted, 0)
            # a position that counts nothing must not spoil sum or gradients, whatever its state: 0 * inf is NaN
            hidden = hidden_TD[rows].to(compute_dtype).masked_fill(~counted.unsqueeze(1), 0)
            logits = torch.mm(hidden, head.T, out=buffer[: len(hidden)]).to(sums)
            slope = _transform(logits, bias_V, transform, keep_slope=with_grad)
            index = target.clamp(min=0).unsqueeze(1)
            top = logits.amax(1, keepdim=True)
            own = logits.gather(1, index)
            p = logits.sub_(top).exp_()
            total = p.sum(1, keepdim=True)
            normaliser = top + total.log()
            loss += ((normaliser - own).squeeze(1) * scale).sum()
            # d/dlogits: row_factor * (p - own_factor * onehot), both [T, 1]
            row_factor, own_factor = scale.unsqueeze(1) / total, total
            if z_loss:
                z_part += z_loss * (normaliser.squeeze(1).square() * scale).sum()
            if not (need_hidden or need_weight or need_bias):
                continue
            if z_loss:
                p *= 1 + 2 * z_loss * normaliser
            p.scatter_add_(1, index, -own_factor)
            if slope is not None:
                p *= slope
            scaled = hidden.to(sums) * (row_factor * transform.scale)
            p = p.to(compute_dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = (torch.mm(p, head).to(sums) * (row_factor * transform.scale)).to(hidden_TD.dtype)
            if grad_weight is not None:
                if compute_dtype == sums:
                    grad_weight.addmm_(p.T, scaled)
                else:
                    grad_weight += torch.mm(p.T, scaled.to(compute_dtype))
            if grad_bias is not None:
                grad_bias += torch.mv(p.T.to(sums), (row_factor * transform.scale).squeeze(1))
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight_VD.dtype, bias_V.dtype if bias_V is not None else None)
        ctx.mark_non_differentiable(z_part)
        return loss + z_part, z_part

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: D102
        grad_loss = grad_outputs[0]
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else (grad_hidden * grad_loss).to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * grad_loss).to(weight_dtype),
            None if grad_bias is None else (grad_bias * grad_loss).to(bias_dtype),
            *(None,) * 7,
        )


def _transform(
    logits: torch.Tensor, bias_V: torch.Tensor | None, transform: OutputTransform, *, keep_slope: bool
) -> torch.Tensor | None:
    """Bias, scale and cap in place; the cap's slope [T, V] where there is one and gradients will be asked for."""
    if bias_V is not None:
        logits += bias_V.to(logits.dtype)
    if transform.scale != 1.0:
        logits *= transform.scale
    if transform.softcap is None:
        return None
    logits.div_(transform.softcap).tanh_()
    slope = 1 - logits.square() if keep_slope else None
    logits *= transform.softcap
    return slope
