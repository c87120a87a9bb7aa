"""The loss of training: weighted **sums** over targets, from hidden states, without holding the logits.

At 32,768 tokens and a vocabulary of 49,152 the logits alone are 6.4 GB in float32, and as much again in the backward
pass.

A sum is divided once, by a number that the caller knows for the whole optimizer step (``step_target_weight``). A mean
per micro-batch, averaged again over micro-batches and ranks, is not the token mean when targets are unevenly spread
(lightning #20350), and is NaN where a rank has none.
"""

from typing import Literal, NamedTuple

import torch

from lit_long.errors import UserError
from lit_long.loss.backends import BACKENDS, Inputs, choose
from lit_long.loss.chunked import default_chunk_size
from lit_long.loss.targets import IGNORE, OutputTransform

Backend = Literal["auto", "chunked", "torch", "liger"]


class LossSums(NamedTuple):
    """Sums over the targets of a micro-batch; divide by the step's target weight for token means.

    Attributes:
        loss: weighted sum of cross-entropies, plus ``z_loss``; nats, scalar, with gradient.
        weight: sum of the weights of the targets that count; scalar.
        z_loss: the z-loss in ``loss``; scalar, without gradient.
    """

    loss: torch.Tensor
    weight: torch.Tensor
    z_loss: torch.Tensor


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target_ids: torch.Tensor,
    target_weights: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    transform: OutputTransform | None = None,
    z_loss: float = 0.0,
    chunk_size: int | None = None,
    backend: Backend = "auto",
) -> LossSums:
    """Sums of the token cross-entropies of ``hidden @ weight.T``, without holding the logits.

    Args:
        hidden: [..., D] hidden states, any float dtype.
        weight: [V, D] output embedding.
        target_ids: int64 [...], already shifted; -100 counts nothing.
        target_weights: [...] weight of each target, or None for 1; constants, they get no gradient.
        bias: [V] output bias, or None.
        transform: what the model does to its logits behind the output layer; default: nothing.
        z_loss: factor of ``logsumexp(logits)^2``, added to each token's loss (PaLM, arXiv 2204.02311, section 5: 1e-4).
        chunk_size: tokens whose logits exist at once, default by :func:`~lit_long.loss.chunked.default_chunk_size`.
            Peak memory is about ``chunk_size * V`` floats (half as much again in bfloat16) and the gradients.
        backend: who computes it. ``chunked``: our own, does all of the above. ``torch``:
            ``torch.nn.functional.linear_cross_entropy`` (torch 2.13). ``liger``: liger-kernel, on CUDA. Both need what
            :mod:`lit_long.loss.backends` says. ``auto``: ``chunked`` on CPU; on CUDA the fastest of those that can,
            measured once for each shape.

    Returns:
        Scalars, float32 (float64 for float64 input).

    Raises:
        ValueError: shapes do not fit, or a target is outside the vocabulary.
        UserError: a pinned backend cannot do this.
    """
    _check(hidden, weight, target_ids, target_weights, bias)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1")
    if z_loss < 0:
        raise ValueError(f"z_loss is {z_loss}; it must be 0 or more")
    device_type = hidden.device.type
    autocast = torch.is_autocast_enabled(device_type)
    inputs = Inputs(
        hidden=hidden.reshape(-1, hidden.shape[-1]),
        weight=weight,
        bias=bias,
        target_ids=target_ids.reshape(-1),
        target_weights=None if target_weights is None else target_weights.reshape(-1),
        transform=transform if transform is not None else OutputTransform(),
        z_loss=z_loss,
        chunk_size=chunk_size if chunk_size is not None else default_chunk_size(weight.shape[0], hidden.device),
        compute_dtype=torch.get_autocast_dtype(device_type) if autocast else weight.dtype,
    )
    with torch.autocast(device_type, enabled=False):
        name = choose(inputs) if backend == "auto" else backend
        if (why := BACKENDS[name].refuses(inputs)) is not None:
            raise UserError(f"loss backend {name!r} cannot do this: {why}; use 'auto' or 'chunked'")
        loss, z_part = BACKENDS[name].run(inputs)
        counted = inputs.target_ids != IGNORE
        weights = counted if inputs.target_weights is None else inputs.target_weights.masked_fill(~counted, 0)
        return LossSums(loss, weights.sum(dtype=loss.dtype), z_part)


def _check(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target_ids: torch.Tensor,
    target_weights: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> None:
    vocab = weight.shape[0]
    if hidden.shape[:-1] != target_ids.shape:
        raise ValueError(f"hidden is {tuple(hidden.shape)}, target_ids {tuple(target_ids.shape)}; all but D must agree")
    if hidden.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != (vocab,)):
        has_bias = "" if bias is None else f", bias {tuple(bias.shape)}"
        raise ValueError(f"hidden is {tuple(hidden.shape)}, weight {tuple(weight.shape)}{has_bias}; D and V must agree")
    if target_weights is not None and target_weights.shape != target_ids.shape:
        raise ValueError(f"target_weights is {tuple(target_weights.shape)}, target_ids {tuple(target_ids.shape)}")
    if target_ids.device.type == "cpu":  # on a GPU the look would wait for it
        outside = target_ids[((target_ids < 0) & (target_ids != IGNORE)) | (target_ids >= vocab)]
        if outside.numel():
            raise ValueError(f"target {int(outside[0])} is outside the vocabulary of {vocab}; {IGNORE} counts nothing")
