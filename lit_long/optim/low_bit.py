"""AdamW with 8-bit moments, which are torchao's; what is ours is that checkpoints hold plain tensors.

torchao's moments are tensors of a class of their own. ``torch.load`` cannot make such tensors with a function as
``map_location``, which is what Lightning passes (torch 2.13, lightning 2.6.6), so a run could be saved and never
resumed; and a checkpoint with them needs torchao to be read at all.
"""

from importlib import import_module
from typing import Any

import torch

from lit_long.errors import UserError

_PARTS = ("codes", "scale", "qmap")


def require_torchao() -> Any:
    """The module ``torchao.optim``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module("torchao.optim")
    except ImportError as error:
        raise UserError(
            "optimizer.states is 8bit, which torchao does, and torchao cannot be imported "
            f"({error}): pip install 'lit-long[lowbit]', or set states to float32 or host"
        ) from error


def is_low_bit(moment: Any) -> bool:
    """Whether an AdamW moment is one of these: live (also within a sharded tensor), or as checkpoints hold it."""
    local = getattr(moment, "_local_tensor", moment)
    return isinstance(moment, dict) or type(local).__module__.startswith("torchao.")


def adamw_8bit(groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    """torchao's AdamW8bit over parameter groups, whose state dict is plain; moments of small tensors are float32.

    Args:
        groups: parameter groups.
        **options: lr, betas, eps, weight_decay.

    Raises:
        UserError: torchao is not installed.
    """
    optimizer: torch.optim.Optimizer = require_torchao().AdamW8bit(groups, **options)
    optimizer.register_state_dict_post_hook(_to_plain)
    optimizer.register_load_state_dict_pre_hook(_from_plain)
    return optimizer


def _to_plain(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if not type(value).__module__.startswith("torchao."):
            return value
        return {name: getattr(value, name) for name in _PARTS} | {"signed": bool(value.signed)}

    return _each_moment(state_dict, plain)


def _from_plain(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    kind = import_module("torchao.optim.subclass_8bit").OptimState8bit

    def live(value: Any) -> Any:
        return kind(*(value[name] for name in _PARTS), value["signed"]) if isinstance(value, dict) else value

    return _each_moment(state_dict, live)


def _each_moment(state_dict: dict[str, Any], change: Any) -> dict[str, Any]:
    states = {
        index: {name: change(value) for name, value in moments.items()}
        for index, moments in state_dict["state"].items()
    }
    return state_dict | {"state": states}
