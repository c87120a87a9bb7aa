"""What attention really ran, read from a profiler trace."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

# operators and CUDA kernels of attention: PyTorch's fused ones, flash-attn's, cuDNN's, memory-efficient
_FUSED = re.compile(
    r"^aten::_(scaled_dot_product_(flash|efficient|cudnn)_attention|flash_attention_|efficient_attention_|cudnn_attention_)"
    r"|^torch_attn::_varlen_attn|^_?flash_attn|flash_fwd|flash_bwd|fmha|cudnn.*(sdpa|attention|attn)",
    re.IGNORECASE,
)
_MATH = re.compile(r"^aten::_scaled_dot_product_attention_math")
_SOFTMAX = re.compile(r"^aten::(_softmax|_safe_softmax|_softmax_backward_data)$")
_LEAST = 64  # tokens; below, a square tensor says nothing


@dataclass(frozen=True)
class KernelTrace:
    """Attention in a trace.

    Attributes:
        kernels: fused attention operators and kernels, with their calls.
        quadratic: what held a tensor with two dimensions of the sequence length.
    """

    kernels: dict[str, int]
    quadratic: list[str]


def attention_kernels(profile: Any, sequence_length: int) -> KernelTrace:
    """Read a ``torch.profiler.profile`` that was taken with ``record_shapes=True``.

    Args:
        profile: the finished profile.
        sequence_length: tokens of a row; what has two last dimensions of at least half of it, one of them all of it, is
            taken for a score matrix where it goes through a softmax, a mask of an attention, or the math kernel.
    """
    kernels: Counter[str] = Counter()
    quadratic: list[str] = []
    for event in profile.events():
        name = event.name
        if _FUSED.search(name):
            kernels[name] += 1
        shapes = [shape for shape in (event.input_shapes or []) if isinstance(shape, list | tuple) and len(shape) >= 2]
        square = [shape for shape in shapes if _is_square(shape, sequence_length)]
        if _SOFTMAX.search(name) and square:
            quadratic.append(f"{name} on {list(square[0])}")
        elif name == "aten::scaled_dot_product_attention" and any(
            _is_square(shape, sequence_length) for shape in shapes[3:]
        ):
            quadratic.append(f"{name} with a mask of {list(square[-1])}")
        elif _MATH.search(name) and shapes and shapes[0][-2] >= max(_LEAST, sequence_length // 2):
            quadratic.append(f"{name} on queries of {list(shapes[0])}")
    return KernelTrace(dict(kernels), quadratic)


def _is_square(shape: Any, sequence_length: int) -> bool:
    rows, columns = shape[-2:]
    return max(rows, columns) >= max(_LEAST, sequence_length) and min(rows, columns) >= max(
        _LEAST, sequence_length // 2
    )
