"""Who computes the loss: our own chunks, torch's operator, or Liger's kernel; and which of them is fastest here.

On a CPU torch's operator takes about as long as our chunks (benchmarks/training/loss.py). It has no weights of
targets, no z-loss and no cap, and lets a state that is not finite at an ignored position spoil the gradients
(0 * inf), so it is not what ``auto`` takes there; in half precision it is refused, because it returns sums of that
precision. Which one ``auto`` takes on a GPU is a measurement, so two runs may
differ in the last bits: pin ``chunked`` for bit-equal ones.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from lit_long.loss.chunked import ChunkedCrossEntropy
from lit_long.loss.targets import IGNORE, OutputTransform

_PROBE_TOKENS = 4096  # on which backends are timed


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Checked arguments of the loss: hidden [T, D], weight [V, D], bias [V], target_ids and target_weights [T]."""

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    target_ids: torch.Tensor
    target_weights: torch.Tensor | None
    transform: OutputTransform
    z_loss: float
    chunk_size: int
    compute_dtype: torch.dtype


@dataclass(frozen=True)
class LossBackend:
    """``refuses``: why it cannot do this, or None. ``run``: weighted sum with z-loss, and the z-loss in it."""

    refuses: Callable[[Inputs], str | None]
    run: Callable[[Inputs], tuple[torch.Tensor, torch.Tensor]]


def _chunked(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    loss, z_part = ChunkedCrossEntropy.apply(
        inputs.hidden,
        inputs.weight,
        inputs.bias,
        inputs.target_ids,
        inputs.target_weights,
        inputs.transform,
        inputs.z_loss,
        inputs.chunk_size,
        inputs.compute_dtype,
        torch.is_grad_enabled(),
    )
    return loss, z_part


def _torch_refuses(inputs: Inputs) -> str | None:
    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        return f"torch {torch.__version__} has no linear_cross_entropy (2.13 has)"
    if inputs.target_weights is not None or inputs.z_loss or inputs.transform != OutputTransform():
        return "it has no weights of targets, z-loss, scaled or capped logits"
    if inputs.compute_dtype in (torch.bfloat16, torch.float16):
        name = str(inputs.compute_dtype).removeprefix("torch.")
        return f"in {name} it returns the sum, and adds up the output layer's gradient over chunks, in {name}"
    return None


def _torch(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    import torch.nn

    dtype = inputs.compute_dtype
    loss = torch.nn.functional.linear_cross_entropy(
        inputs.hidden.to(dtype),
        inputs.weight.to(dtype),
        inputs.target_ids,
        linear_bias=None if inputs.bias is None else inputs.bias.to(dtype),
        reduction="sum",
        ignore_index=IGNORE,
        options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=inputs.chunk_size, chunking_method=None),
    )
    loss = loss.to(_sums(inputs))
    return loss, loss.new_zeros(())


def _liger_refuses(inputs: Inputs) -> str | None:
    if inputs.hidden.device.type != "cuda":
        return f"its kernels are for CUDA, the tensors are on {inputs.hidden.device.type}"
    if find_spec("liger_kernel") is None:
        return "liger-kernel is not installed (pip install liger-kernel)"
    if inputs.target_weights is not None or inputs.transform.scale != 1.0:
        return "it has no weights of targets and no scaled logits"
    if inputs.compute_dtype == torch.float64:
        return "it computes in float32 at most"
    return None


def _liger(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    dtype, with_z = inputs.compute_dtype, inputs.z_loss > 0
    result = liger_fused_linear_cross_entropy(
        inputs.hidden.to(dtype),
        inputs.weight.to(dtype),
        inputs.target_ids,
        bias=None if inputs.bias is None else inputs.bias.to(dtype),
        ignore_index=IGNORE,
        reduction="sum",
        lse_square_scale=inputs.z_loss,
        softcap=inputs.transform.softcap,
        return_z_loss=with_z,
        accum_dtype=torch.float32,
    )
    if isinstance(result, tuple):  # before its CrossEntropyOutput
        loss, z_part = result[0], result[1] if with_z else result[0].new_zeros(())
    else:
        loss, z_part = (result.loss, result.z_loss) if with_z else (result, result.new_zeros(()))
    return loss.float(), z_part.detach().float()


def _sums(inputs: Inputs) -> torch.dtype:
    return torch.float64 if inputs.compute_dtype == torch.float64 else torch.float32


BACKENDS: dict[str, LossBackend] = {
    "chunked": LossBackend(lambda inputs: None, _chunked),
    "torch": LossBackend(_torch_refuses, _torch),
    "liger": LossBackend(_liger_refuses, _liger),
}


def choose(inputs: Inputs) -> str:
    """The backend for these inputs: ``chunked`` on a CPU, else the fastest that can, as measured for this shape."""
    able = tuple(name for name, backend in BACKENDS.items() if backend.refuses(inputs) is None)
    needs = tuple(t is not None and t.requires_grad for t in (inputs.hidden, inputs.weight, inputs.bias))
    if inputs.hidden.device.type == "cpu" or len(able) == 1 or not torch.is_grad_enabled() or not any(needs):
        return "chunked"  # in evaluation the others have nothing to offer
    dtypes = (inputs.hidden.dtype, inputs.weight.dtype, inputs.compute_dtype)
    key = (able, inputs.hidden.device, inputs.weight.shape, dtypes, needs, inputs.transform, inputs.z_loss > 0)
    if key not in _CHOSEN:
        _CHOSEN[key] = fastest(able, inputs)
    return _CHOSEN[key]


_CHOSEN: dict[tuple[object, ...], str] = {}


def fastest(names: Sequence[str], inputs: Inputs) -> str:
    """The backend that takes least for forward and backward of the first tokens.

    One that fails on them is left out, and so is one whose loss or gradients are not those of our chunks. Nothing of
    ``inputs`` is changed, and no random number is drawn.
    """
    half = inputs.compute_dtype in (torch.bfloat16, torch.float16)
    expected = _trial("chunked", inputs)
    seconds: dict[str, float] = {}
    for name in names:
        try:
            trials = [_trial(name, inputs) for _ in range(3)]  # the first compiles kernels
        except RuntimeError:  # out of memory is one, too
            continue
        if all(_agree(trial.values, expected.values, 2e-2 if half else 1e-4) for trial in trials):
            seconds[name] = min(trial.seconds for trial in trials)
    return min(seconds, key=lambda name: seconds[name], default="chunked")


@dataclass(frozen=True)
class _Trial:
    """``values``: the loss, and of each gradient its norm and its product with a fixed direction."""

    seconds: float
    values: tuple[torch.Tensor, ...]


def _trial(name: str, inputs: Inputs) -> _Trial:
    rows = slice(0, _PROBE_TOKENS)

    def fresh(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.detach().requires_grad_(tensor.requires_grad)

    hidden, weight, bias = fresh(inputs.hidden[rows]), fresh(inputs.weight), fresh(inputs.bias)
    assert hidden is not None
    assert weight is not None
    weights = None if inputs.target_weights is None else inputs.target_weights[rows]
    probe = replace(
        inputs, hidden=hidden, weight=weight, bias=bias, target_ids=inputs.target_ids[rows], target_weights=weights
    )
    _synchronize(inputs.hidden.device)
    began = time.perf_counter()
    loss = BACKENDS[name].run(probe)[0]
    loss.backward()
    _synchronize(inputs.hidden.device)
    taken = time.perf_counter() - began
    values = [loss.detach().double()]
    for tensor in (hidden, weight, bias):
        if tensor is not None and tensor.grad is not None:
            # few numbers of a gradient that may be the largest tensor here: its size, and its rows against one another
            norms = tensor.grad.detach().float().flatten(1 if tensor.ndim > 1 else 0).norm(dim=-1).double()
            values += [norms.norm(), (norms * torch.arange(1, norms.numel() + 1, device=norms.device)).sum()]
    return _Trial(taken, tuple(values))


def _agree(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...], tolerance: float) -> bool:
    """Also false for NaN."""
    return len(found) == len(expected) and all(
        bool((a - b).abs() <= tolerance * b.abs()) for a, b in zip(found, expected, strict=True)
    )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
