"""The Hugging Face models in somebody's module."""

from collections.abc import Iterator
from typing import Any

from torch import nn


def huggingface_models(module: nn.Module) -> Iterator[Any]:
    """The outermost transformers models in a module, at any depth; one in a peft wrapper as the wrapper."""
    from transformers import PreTrainedModel

    for child in module.children():
        if isinstance(child, PreTrainedModel) or hasattr(child, "get_base_model"):
            yield child
        else:
            yield from huggingface_models(child)
