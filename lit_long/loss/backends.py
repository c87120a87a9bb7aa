"""Who computes the loss: our own chunks, torch's operator, or Liger's kernel; and which of them is fastest here.

On a CPU torch's operator takes about as long as our chunks (benchmarks/training/loss.py). It has no weights of
targets, no z-loss and no cap, and lets a state that is not finite at an ignored position spoil the gradients
(0 * inf), so it is not what ``auto`` takes there. Which one ``auto`` takes on a GPU is a measurement, so two runs may
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
    """The backend that takes least for forward and backward of the first tokens; one whose loss is wrong is left out.

    Nothing of ``inputs`` is changed, and no random number is drawn.
    """
    rows = slice(0, _PROBE_TOKENS)

    def fresh(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.detach().requires_grad_(tensor.requires_grad)

    with torch.no_grad():
        expected = float(_chunked(replace(inputs, hidden=inputs.hidden[rows], target_ids=inputs.target_ids[rows]))[0])
    tolerance = 1e-2 if inputs.compute_dtype in (torch.bfloat16, torch.float16) else 1e-4
    seconds: dict[str, float] = {}
    for name in names:
        for _ in range(3):  # the first compiles kernels
            hidden, weight = fresh(inputs.hidden[rows]), fresh(inputs.weight)
            assert hidden is not None
            assert weight is not None
            probe = replace(
                inputs, hidden=hidden, weight=weight, bias=fresh(inputs.bias), target_ids=inputs.target_ids[rows]
            )
            _synchronize(inputs.hidden.device)
            began = time.perf_counter()
            loss = BACKENDS[name].run(probe)[0]
            loss.backward()
            _synchronize(inputs.hidden.device)
            taken = time.perf_counter() - began
            if abs(float(loss.detach()) - expected) <= tolerance * abs(expected):
                seconds[name] = min(seconds.get(name, taken), taken)
    return min(seconds, key=lambda name: seconds[name], default="chunked")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
