"""torch.compile, layer by layer: layers of one kind share one graph, so it is compiled once whatever the depth.

Sizes are symbols from the start (``dynamic=True``): rows of another length make no new graph, and a layer that is run
again under activation checkpointing finds the one of its first run. Attention stays outside: its work depends on where
documents end, which is data, and its kernels are whole already.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lit_long.model.layers import plain_forward

BACKEND = "inductor"  # tests: another one


def compiled_forwards(modules: Iterable[nn.Module]) -> dict[type, Callable[..., Any]]:
    """A compiled forward, as a function of the module and its arguments, for each class among ``modules``."""
    _keep_attention_out()
    kinds = {type(module): plain_forward(module) for module in modules}
    return {kind: torch.compile(forward, dynamic=True, backend=BACKEND) for kind, forward in kinds.items()}


def _keep_attention_out() -> None:
    """Register packed attention anew, as a function that torch.compile does not look into."""
    from transformers import AttentionInterface

    from lit_long.attention import PACKED, packed_attention

    AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))
