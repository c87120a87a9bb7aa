"""Activation checkpointing of decoder layers: forget what a layer made, keep its input, make it again in the backward.

``full`` makes everything again; ``selective`` keeps the outputs of attention (and its log-sum-exp), which cost D values
a token to keep and, alone in a layer, work that grows with the square of the length to make again.
PyTorch's non-reentrant checkpoint does the work; its hooks on saved tensors need no input that requires a gradient, so
LoRA on frozen embeddings needs nothing more.
"""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from lit_long.errors import UserError
from lit_long.model.layers import Forward
from lit_long.model.offload import HostStore

_ATEN_ATTENTION = {
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_flash_attention_forward",
    "_efficient_attention_forward",
    "_cudnn_attention_forward",
}
# libraries whose operators are attention: torch.nn.attention.varlen, flash-attn 2, 3 and 4, ours
_ATTENTION_LIBRARIES = ("torch_attn", "flash_attn", "flash_attn_3", "flash_attn_4", "lit_long")


def is_attention_forward(op: Any) -> bool:
    """Whether a torch operator computes attention (and not its gradient, and not in place)."""
    if not isinstance(op, torch._ops.OpOverload) or op._schema.is_mutable:
        return False
    name = op._schema.name.split("::")[-1]
    if op.namespace == "aten":
        return name in _ATEN_ATTENTION
    return op.namespace in _ATTENTION_LIBRARIES and not any(part in name for part in ("backward", "bwd"))


class Checkpointed(Forward):
    """A decoder layer's forward that keeps only the layer's input, and attention's output with ``selective``.

    Args:
        module: the decoder layer.
        body: see :class:`~lit_long.model.layers.Forward`.
        selective: keep what attention returns.
        store: where the layer's input waits for the backward; None: where it is.
    """

    def __init__(
        self,
        module: nn.Module,
        body: Callable[..., Any] | None = None,
        *,
        selective: bool,
        store: HostStore | None = None,
    ) -> None:
        super().__init__(module, body)
        self.selective, self.store = selective, store

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer; without gradients, plainly.

        Raises:
            UserError: a key/value cache, which the second run of the layer would fill again.
        """
        if not torch.is_grad_enabled():
            return self.plain(*args, **kwargs)
        if kwargs.get("past_key_values") is not None:
            raise UserError("activation checkpointing and a key/value cache exclude each other; pass use_cache=False")
        hidden, *others = args if args else (kwargs.pop("hidden_states"),)
        kept = 0

        def policy(context: Any, op: Any, *_: Any, **__: Any) -> CheckpointPolicy:
            nonlocal kept
            if not is_attention_forward(op):
                return CheckpointPolicy.PREFER_RECOMPUTE
            kept += 1
            return CheckpointPolicy.MUST_SAVE

        context_fn = (lambda: create_selective_checkpoint_contexts(policy)) if self.selective else noop_context_fn
        with self.store.holding(hidden) if self.store is not None else nullcontext():
            # other arguments are shared by all layers (positions, boundaries): a closure keeps them, not the frame
            output = checkpoint(
                lambda states: self.plain(states, *others, **kwargs),
                hidden,
                use_reentrant=False,
                context_fn=context_fn,
            )
        if self.selective and not kept:
            warnings.warn(
                f"checkpointing: selective keeps attention's outputs, but no known attention operator ran in "
                f"{type(self.module).__name__}; its attention is computed again, as with full",
                stacklevel=2,
            )
        return output
