"""Floating-point operations of training: the paper's formula, and an exact count for a model on packed documents.

The exact count is of **model FLOPs**: the matrix products of one forward and one backward pass, a multiplication and an
addition as 2. A weight costs 2 a token forward, 2 backward for the gradient of its input, and 2 for its own gradient
if it is trained. Attention costs, for each (query, key) pair that a causal document mask lets through, the product of
scores and that of values: 2 * heads * (key width + value width) a layer forward, twice that backward; a document of n
tokens has n * (n + 1) / 2 pairs. Grouped-query attention saves memory here, not products.
Left out: embedding look-ups, norms, rotation, softmax, the optimizer. Recomputation (gradient checkpointing) is work of
the hardware and not of the model, and is counted apart. Others count differently: PaLM's and Megatron's formulas take
the full square of the sequence instead of half of it, and one sequence instead of its documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lit_long.data.schedule import StageSpan
from lit_long.errors import UserError
from lit_long.hardware import bf16_peak


def megatron_flops(*, layers: int, hidden: int, sequence_length: int, tokens: float) -> float:
    """FLOPs of training by the paper's formula, ``72 L h^2 (1 + s / 6h)`` a token.

    Narayanan et al. 2021 (Megatron-LM), equation 3, without its vocabulary term and without recomputation; this gives
    the four totals in Table 10 of Llama 2 Long to four digits.
    """
    return 72.0 * layers * hidden**2 * (1 + sequence_length / (6 * hidden)) * tokens


def megatron_run_flops(spans: Sequence[StageSpan], *, layers: int, hidden: int, tokens_per_step: int) -> float:
    """:func:`megatron_flops` over all stages of a run (``LengthSchedule.spans``)."""
    return sum(
        megatron_flops(
            layers=layers,
            hidden=hidden,
            sequence_length=span.sequence_length,
            tokens=(span.stop_step - span.first_step) * tokens_per_step,
        )
        for span in spans
    )


@dataclass(frozen=True, kw_only=True)
class ModelFlops:
    """What a token and a (query, key) pair cost in a model.

    Attributes:
        trained: weights in matrix products that a token passes and that are trained; the output layer once.
        frozen: those that are not trained (the base under adapters).
        head: those of the output layer, which is among the others.
        pair: FLOPs of attention for one (query, key) pair, forward, all layers.
    """

    trained: float
    frozen: float
    head: float
    pair: float

    def step(self, tokens: float, pairs: float) -> float:
        """Model FLOPs of forward and backward."""
        return (6 * self.trained + 4 * self.frozen) * tokens + 3 * self.pair * pairs

    def recomputation(self, tokens: float, pairs: float, *, layers: float = 1.0, attention: float = 1.0) -> float:
        """FLOPs that activation checkpointing adds: forward once more, for these shares of the layers' matrices and of
        attention (1: all of it)."""
        return 2 * layers * (self.trained + self.frozen - self.head) * tokens + attention * self.pair * pairs


def model_flops(model: Any) -> ModelFlops:
    """Count a transformers causal LM, bare or in a peft wrapper, on any device (meta, too).

    Every parameter of two or more dimensions outside an embedding is taken for a matrix that each token is multiplied
    with, a tied output layer for itself. Of stacked expert weights [experts, ., .] only those that a token is sent to.

    Raises:
        UserError: the model has attention that is not full and causal, or weights of a kind that is not known here.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config
    _require_full_attention(config)
    trained = frozen = 0.0
    for name, module in inner.named_modules():
        # peft keeps the untouched twin of a module that is trained whole
        if isinstance(module, nn.Embedding) or "original_module" in name.split("."):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2:
                continue
            count = parameter.numel() * _share(config, parameter, f"{name}.{key}")
            if parameter.requires_grad:
                trained += count
            else:
                frozen += count
    heads, layers = int(config.num_attention_heads), int(config.num_hidden_layers)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    value_dim = getattr(config, "v_head_dim", None) or head_dim
    key_dim = getattr(config, "qk_head_dim", None) or head_dim  # multi-head latent attention has both
    return ModelFlops(
        trained=trained,
        frozen=frozen,
        head=float(inner.get_output_embeddings().weight.numel()),
        pair=2.0 * layers * heads * (key_dim + value_dim),
    )


def causal_pairs(batch: dict[str, Any]) -> torch.Tensor:
    """(Query, key) pairs of a packed batch, int64 scalar on the batch's device, without waiting for the device."""
    if (counted := batch.get("causal_pairs")) is not None:  # a share of a split batch
        return torch.tensor(counted, device=batch["input_ids"].device)
    rows, length = batch["input_ids"].shape
    boundaries = batch.get("cu_seqlens")
    if boundaries is None:
        return torch.tensor(rows * length * (length + 1) // 2, device=batch["input_ids"].device)
    lengths = boundaries.to(torch.int64).diff()
    return (lengths * (lengths + 1)).sum() // 2


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 peak of a GPU in FLOP/s; None where it is not known for sure."""
    return bf16_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def _require_full_attention(config: Any) -> None:
    kinds = sorted({str(kind) for kind in (getattr(config, "layer_types", None) or [])} - {"full_attention"})
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False or getattr(config, "layer_types", None):
        window = None
    if kinds or window is not None:
        what = f"layers of type {kinds}" if kinds else f"sliding_window={window}"
        raise UserError(f"{config.model_type} has {what}; FLOPs are counted for full causal attention only")


def _share(config: Any, parameter: torch.Tensor, name: str) -> float:
    """Share of a parameter's numbers that a token is multiplied with."""
    if parameter.ndim == 2:
        return 1.0
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    if parameter.ndim == 3 and experts == parameter.shape[0] and chosen:
        return float(chosen / experts)
    raise UserError(
        f"{config.model_type}: {name} of shape {list(parameter.shape)} is neither a matrix nor one of stacked experts, "
        f"so its FLOPs are not known"
    )
