"""Does a kernel compute packed causal attention? Against float64, on a small packed probe; and how fast is it?"""

import time

import torch

from lit_long.attention.backends import AttentionBackend, AttentionCase
from lit_long.attention.backends.case import States
from lit_long.attention.boundaries import Boundaries

_LENGTHS = (1, 63, 5, 64, 67)  # across the block sizes of kernels
# relative error (Frobenius norms) of outputs and gradients that rounding explains
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}


def numerics(backend: AttentionBackend, case: AttentionCase, scale: float | None = None) -> str | None:
    """What is wrong with a backend's output or gradients for a case, or None; draws from no global generator."""
    lengths = _LENGTHS if case.packed else (sum(_LENGTHS),)
    tokens = sum(lengths)
    cuts = torch.tensor([0, *lengths]).cumsum(0)
    bounds = Boundaries(cuts.to(case.device, torch.int32), 1, tokens, max(lengths))
    generator = torch.Generator().manual_seed(0)
    widths = ((case.heads, case.head_dim), (case.kv_heads, case.head_dim), (case.kv_heads, case.value_dim))
    exact = [torch.randn(1, tokens, h, d, generator=generator, dtype=torch.float64) for h, d in widths]
    weight = torch.randn(1, tokens, case.heads, case.value_dim, generator=generator, dtype=torch.float64)
    query, key, value = (t.to(case.device, case.dtype).requires_grad_() for t in exact)
    rounded = (query, key, value)
    # the reference starts from the same rounded numbers
    q, k, v = (t.detach().to(torch.float64).requires_grad_() for t in rounded)
    weight = weight.to(case.device, case.dtype)
    try:
        with torch.enable_grad():
            out = backend.run(rounded, bounds, scale, 0.0)
            found = [out, *torch.autograd.grad(out, rounded, weight)]
    except (RuntimeError, TypeError, ValueError) as error:
        return f"it failed: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}"
    with torch.enable_grad():
        want = reference((q, k, v), lengths, scale)
        expected = [want, *torch.autograd.grad(want, (q, k, v), weight.to(torch.float64))]
    for name, mine, other in zip(("output", "dq", "dk", "dv"), found, expected, strict=True):
        off = float((mine.detach().to(torch.float64) - other.detach()).norm() / other.detach().norm())
        if not off <= _TOLERANCE[case.dtype]:
            return f"its {name} differs from float64 by {off:.1e} (rounding explains {_TOLERANCE[case.dtype]:.0e})"
    return None


def reference(states: States, lengths: tuple[int, ...], scale: float | None) -> torch.Tensor:
    """Causal attention within documents, written out: ([1, T, H, D], [1, T, K, D], [1, T, K, E]) to [1, T, H, E].

    For small T only: it holds T x T scores.
    """
    query, key, value = states
    groups = query.shape[2] // key.shape[2]
    key, value = (t.repeat_interleave(groups, dim=2) for t in (key, value))
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(query.device)
    place = torch.arange(len(document), device=query.device)
    seen = (document[:, None] == document) & (place[:, None] >= place)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * (scale if scale is not None else query.shape[-1] ** -0.5)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


def milliseconds(backend: AttentionBackend, states: States, bounds: Boundaries, scale: float | None) -> float:
    """The least of three forward and backward passes over these tensors, which are left as they are."""
    query, key, value = (t.clone().requires_grad_() for t in states)  # clones, as these may be of inference mode
    best = float("inf")
    for _ in range(4):  # the first one compiles or tunes
        _synchronize(query.device)
        began = time.perf_counter()
        with torch.enable_grad():
            out = backend.run((query, key, value), bounds, scale, 0.0)
            torch.autograd.grad(out, (query, key, value), out.detach())
        _synchronize(query.device)
        best = min(best, 1000 * (time.perf_counter() - began))
    return best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
