"""The decoder layers of a transformers model, and how a lever takes the place of a module's ``forward``.

A lever is a small callable object set as the module's own ``forward``: hooks of the module (FSDP2's among them) stay
outside of it and run once, ``copy.deepcopy`` copies it with the module, names and state dict do not change, and
``type(module).forward`` is still the plain one.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from lit_long.errors import UserError
from lit_long.model.forward import unwrapped


def decoder(model: Any) -> nn.Module:
    """The decoder (everything but the output layer) of a causal LM, bare or in a peft wrapper."""
    found: nn.Module = unwrapped(model).get_decoder()
    return found


def decoder_layers(model: Any) -> list[nn.Module]:
    """The repeated layers of a causal LM, first to last.

    Raises:
        UserError: the decoder has no list ``layers``.
    """
    layers = getattr(decoder(model), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise UserError(
            f"{unwrapped(model).config.model_type}: {type(decoder(model)).__name__} has no list of decoder layers "
            f"named 'layers', so model.levers cannot be applied to it; set levers: {{checkpointing: none, "
            f"tile_size: 0}}"
        )
    return list(layers)


def plain_forward(module: nn.Module) -> Callable[..., Any]:
    """The ``forward`` of the module's class, as a function of the module and its arguments."""
    forward: Callable[..., Any] = type(module).forward
    return forward


class Forward:
    """Stands for the ``forward`` of ``module``; runs ``body`` (a compiled function), or the one of its class."""

    def __init__(self, module: nn.Module, body: Callable[..., Any] | None = None) -> None:
        self.module, self.body = module, body

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes, without the lever."""
        return (self.body or plain_forward(self.module))(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's forward is now."""
        return self.plain(*args, **kwargs)


def take_over(forward: Forward) -> None:
    """Let ``forward`` stand for the forward of its module.

    Raises:
        UserError: something else already does (accelerate's hooks, another call of this).
    """
    module = forward.module
    if "forward" in vars(module):
        raise UserError(
            f"the forward of {type(module).__name__} is already replaced (by {vars(module)['forward']!r}); apply "
            f"levers once, to a fresh model"
        )
    module.forward = forward
