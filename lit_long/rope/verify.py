"""Prove that a live model turns its positions by the formula.

Three links, each against float64: the ``inv_freq`` buffer equals the formula within float32 rounding; the
``attention_scaling`` equals the formula; and the module's forward really gives cos and sin of position times
``inv_freq``, up to the last position of the context. A method whose scores decay (xPos) adds a fourth, in
:mod:`.xpos_proof`. The third is compared with the model's own float32 frequencies,
because a phase at position p carries p times their rounding (0.3 radians at 131,071), the same in every engine.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_long.rope.base import RopeScaling
from lit_long.rope.geometry import RopeGeometry
from lit_long.rope.mismatch import RopeMismatchError
from lit_long.rope.parameters import rounding_tolerance
from lit_long.rope.xpos_proof import verify_decay


@dataclass(frozen=True, kw_only=True)
class RopeReport:
    """What :func:`verify_rope` measured.

    Attributes:
        method: Name of the scaling method.
        context_length: Context in tokens that was checked.
        module_count: Rotary modules found and checked.
        max_relative_error: Largest relative distance of a module's frequency from the formula.
        tolerance: The largest such distance that float32 rounding explains.
        max_rotation_error: Largest absolute distance of a module's cos or sin from float64 at the checked positions.
    """

    method: str
    context_length: int
    module_count: int
    max_relative_error: float
    tolerance: float
    max_rotation_error: float

    def __str__(self) -> str:
        modules = "1 rotary module agrees" if self.module_count == 1 else f"{self.module_count} rotary modules agree"
        return (
            f"rope {self.method}: {modules} with the formula (inv_freq within {self.max_relative_error:.1e}, limit "
            f"{self.tolerance:.1e}; cos/sin to position {self.context_length - 1} within {self.max_rotation_error:.1e})"
        )


def verify_rope(model: nn.Module, scaling: RopeScaling, native: RopeGeometry, context_length: int) -> RopeReport:
    """Check every rotary module of a live model against the scaling's formula.

    Args:
        model: The model, bare or inside peft, ``torch.compile`` or Lightning wrappers, on any device but meta.
        scaling: The method that was applied.
        native: Geometry of the config before it was scaled.
        context_length: Context in tokens that it was scaled to.

    Raises:
        RopeMismatchError: No rotary module, or one whose buffer, scale, cos or sin is not the formula's; names
            the module, the index, the expected and the found value.
    """
    expected = scaling.inv_freq(native, context_length)
    attention_factor = scaling.attention_factor(native, context_length)
    tolerance = rounding_tolerance(scaling.rope_parameters(native, context_length))
    last = context_length - 1
    positions = sorted({0, min(1, last), native.native_length - 1, min(native.native_length, last), last // 2, last})
    frequency_errors, rotation_errors = [], []
    for name, module, inv_freq in rotary_modules(model):
        frequency_errors.append(_check_buffer(name, inv_freq, expected, tolerance))
        scale = getattr(module, "attention_scaling", attention_factor)
        if abs(float(scale) - attention_factor) > 1e-6 * attention_factor:
            raise RopeMismatchError(
                f"{name}.attention_scaling is {float(scale):.8g}, rope method {scaling.name!r} needs "
                f"{attention_factor:.8g}. {_REBUILD}"
            )
        rotation_errors.append(_check_rotation(name, module, inv_freq, attention_factor, positions))
    decay = scaling.decay(native, context_length)
    if frequency_errors and bool((decay != 1).any()):
        verify_decay(model, expected, decay, context_length)
    if not frequency_errors:
        raise RopeMismatchError(
            f"{type(model).__name__} has no module with an inv_freq buffer, so its positions cannot be scaled or "
            "checked: use a model with rotary positions, such as Llama, Qwen3, Mistral or SmolLM."
        )
    return RopeReport(
        method=scaling.name,
        context_length=context_length,
        module_count=len(frequency_errors),
        max_relative_error=max(frequency_errors),
        tolerance=tolerance,
        max_rotation_error=max(rotation_errors),
    )


_REBUILD = (
    "Build the model from the config that scale_rope returns, before loading weights; if you did, this model class "
    "ignores rope_parameters and cannot be scaled."
)


def rotary_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, module and frequencies of each rotary module; own attributes only, since wrappers forward lookups."""
    for name, module in model.named_modules():
        own = dict(module.named_buffers(recurse=False)) | vars(module)
        inv_freq = own.get("inv_freq")
        if isinstance(inv_freq, Tensor):
            yield name or type(module).__name__, module, inv_freq


def _check_buffer(name: str, inv_freq: Tensor, expected: Tensor, tolerance: float) -> float:
    """Check a module's frequencies; return their largest relative error."""
    if inv_freq.is_meta:
        raise RopeMismatchError(
            f"{name}.inv_freq is on the meta device: it has no values. It is in no checkpoint; recompute it from the "
            "config after materialising the model."
        )
    if inv_freq.dtype != torch.float32:
        raise RopeMismatchError(
            f"{name}.inv_freq is {inv_freq.dtype}, it must be torch.float32: half precision makes far positions random "
            "(bf16-true or model.to(bfloat16) does this). Use precision bf16-mixed or 32-true."
        )
    if inv_freq.shape != expected.shape:
        raise RopeMismatchError(
            f"{name}.inv_freq has shape {list(inv_freq.shape)}, expected {list(expected.shape)} (rotary dimensions / "
            f"2). {_REBUILD}"
        )
    found = inv_freq.detach().cpu().double()
    errors = ((found - expected) / expected).abs()
    # A comparison that is false for NaN, so that a garbage buffer after to_empty() is caught here, too
    if not bool((errors <= tolerance).all()):
        index = int(torch.where(errors.isfinite(), errors, torch.inf).argmax())
        raise RopeMismatchError(
            f"{name}.inv_freq[{index}] is {float(found[index]):.8g}, expected {float(expected[index]):.8g} (relative "
            f"error {float(errors[index]):.1e}, float32 rounding explains {tolerance:.1e}). {_REBUILD}"
        )
    return float(errors.max())


def _check_rotation(name: str, module: nn.Module, inv_freq: Tensor, scale: float, positions: list[int]) -> float:
    """Check what the module's forward computes, [1, P] positions to cos and sin; return the largest absolute error."""
    frequencies = inv_freq.detach().cpu().double()
    angles = torch.tensor(positions, dtype=torch.float64)[:, None] * frequencies  # [P, dim/2]
    # One float32 rounding of the angle (relative 2^-24, doubled for the trigonometry) and of the result
    limits = scale * (angles * 2.0**-23 + 1e-6)
    worst = 0.0
    for part, found, expected in zip(
        ("cos", "sin"),
        _forward(name, module, positions, inv_freq.device),
        (angles.cos() * scale, angles.sin() * scale),
        strict=True,
    ):
        error = _layout_error(name, found, expected, limits)
        excess = torch.where(error.isfinite(), error - limits, torch.inf)
        if bool((excess > 0).any()):
            row, column = divmod(int(excess.argmax()), excess.shape[1])
            raise RopeMismatchError(
                f"{name} computes a wrong {part} at position {positions[row]}, frequency {column}: expected "
                f"{float(expected[row, column]):.6g}, off by {float(error[row, column]):.2g} where float32 explains "
                f"{float(limits[row, column]):.2g}. Its forward does not rotate by position x inv_freq: it lowers the "
                "precision, limits the position or rescales it, and cannot be scaled."
            )
        worst = max(worst, float(error.max()))
    return worst


def _forward(name: str, module: nn.Module, positions: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Run a rotary module in float32 as its decoder does; cos and sin, float64 on the CPU, [P, dim/2 or dim]."""
    position_ids = torch.tensor([positions], dtype=torch.int64, device=device)
    hidden = torch.zeros(1, len(positions), 1, dtype=torch.float32, device=device)
    try:
        with torch.no_grad():
            output = module(hidden, position_ids)
    except TypeError as error:
        raise RopeMismatchError(
            f"{name} ({type(module).__name__}) does not take (hidden states, position_ids), so lit-long cannot check "
            f"it: {error}. Use a model class of transformers 5."
        ) from error
    if isinstance(output, Tensor) and output.is_complex():  # Llama 4 and DeepSeek-V2: cos + i sin
        output = (output.real, output.imag)
    if not isinstance(output, tuple) or len(output) != 2:
        raise RopeMismatchError(
            f"{name} ({type(module).__name__}) returns {type(output).__name__}, not cos and sin, so lit-long cannot "
            "check it. Use a model class of transformers 5."
        )
    cos, sin = (part.detach().cpu().double().reshape(len(positions), -1) for part in output)
    return cos, sin


def _layout_error(name: str, found: Tensor, expected: Tensor, limits: Tensor) -> Tensor:
    """Absolute error for each position and frequency, in whichever layout the model uses; [P, dim/2].

    A frequency stands once (gpt-oss), twice in two halves (Llama) or twice side by side (Cohere).
    """
    rows, count = expected.shape
    if found.shape == expected.shape:
        return (found - expected).abs()
    if found.shape != (rows, 2 * count):
        raise RopeMismatchError(
            f"{name} gives {found.shape[1]} cos values a position, expected {count} or {2 * count} (rotary dimensions)."
        )
    halves = (found.view(rows, 2, count) - expected[:, None]).abs().amax(1)
    pairs = (found.view(rows, count, 2) - expected[:, :, None]).abs().amax(2)
    return pairs if bool((pairs <= limits).all()) else halves
