"""PyTorch's own flash kernel for packed documents (``torch.nn.attention.varlen``), on CUDA."""

import inspect
from functools import cache

import torch

from lit_long.attention.backends.case import (
    AttentionBackend,
    AttentionCase,
    Function,
    States,
    flattened,
    half_precision_on_cuda,
    repeated_heads,
)
from lit_long.attention.boundaries import Boundaries


@cache
def _varlen() -> tuple[Function, frozenset[str]] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def _missing() -> str | None:
    return None if _varlen() else f"torch {torch.__version__} has no torch.nn.attention.varlen"


def _refuses(case: AttentionCase) -> str | None:
    return "it has no dropout" if case.dropout else half_precision_on_cuda(case)


def _run(states: States, bounds: Boundaries, scale: float | None, dropout: float) -> torch.Tensor:
    query, key, value = states
    found = _varlen()
    assert found is not None
    function, known = found
    # the name of the causal option, and grouped heads, came in over the releases
    options: dict[str, object] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if key.shape[2] != query.shape[2]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            key, value = repeated_heads(key, query.shape[2]), repeated_heads(value, query.shape[2])
    if scale is not None:
        if "scale" in known:
            options["scale"] = scale
        else:
            query = query * (scale * query.shape[-1] ** 0.5)
    out: torch.Tensor = function(
        flattened(query),
        flattened(key),
        flattened(value),
        bounds.cu_seqlens,
        bounds.cu_seqlens,
        bounds.max_seqlen,
        bounds.max_seqlen,
        **options,
    )
    return out.unflatten(0, (bounds.rows, bounds.tokens))


VARLEN = AttentionBackend("varlen", _missing, _refuses, _run)
