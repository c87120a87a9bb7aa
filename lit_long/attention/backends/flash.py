"""The flash-attn packages (2, 3 for Hopper, 4), where they are installed."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch

from lit_long.attention.backends.case import (
    AttentionBackend,
    AttentionCase,
    Function,
    States,
    flattened,
    half_precision_on_cuda,
)
from lit_long.attention.boundaries import Boundaries

_FUNCTION = "flash_attn_varlen_func"


@cache
def _function(module: str) -> Function | str:
    """The package's function, or why there is none."""
    try:
        if find_spec(module.split(".")[0]) is None:
            return f"{module.split('.')[0]} is not installed"
        function: Function = getattr(import_module(module), _FUNCTION)
    except (ImportError, AttributeError) as error:
        return f"{module} cannot be used: {error}"
    return function


def _backend(name: str, module: str, *, dropout_option: str | None, capability: tuple[int, ...]) -> AttentionBackend:
    def missing() -> str | None:
        found = _function(module)
        return found if isinstance(found, str) else None

    def refuses(case: AttentionCase) -> str | None:
        if case.dropout and dropout_option is None:
            return "it has no dropout"
        if (why := half_precision_on_cuda(case)) is not None:
            return why
        major = torch.cuda.get_device_capability(case.device)[0]
        return None if major in capability else f"it is for compute capability {capability}, this device has {major}.x"

    def run(states: States, bounds: Boundaries, scale: float | None, dropout: float) -> torch.Tensor:
        query, key, value = states
        function = _function(module)
        assert not isinstance(function, str)
        options: dict[str, float] = {} if dropout_option is None else {dropout_option: dropout}
        out = function(
            flattened(query),
            flattened(key),
            flattened(value),
            cu_seqlens_q=bounds.cu_seqlens,
            cu_seqlens_k=bounds.cu_seqlens,
            max_seqlen_q=bounds.max_seqlen,
            max_seqlen_k=bounds.max_seqlen,
            softmax_scale=scale,
            causal=True,
            **options,
        )
        first: torch.Tensor = out[0] if isinstance(out, tuple) else out  # some releases return the log-sum-exp, too
        return first.unflatten(0, (bounds.rows, bounds.tokens))

    return AttentionBackend(name, missing, refuses, run)


FLASH_2 = _backend("flash_attn_2", "flash_attn", dropout_option="dropout_p", capability=(8, 9, 10, 12))
FLASH_3 = _backend("flash_attn_3", "flash_attn_interface", dropout_option=None, capability=(9,))
FLASH_4 = _backend("flash_attn_4", "flash_attn.cute", dropout_option=None, capability=(9, 10))
