"""The training model, built in this process from the checkpoint alone; what a release is compared with.

It never reads the exported folder: config and weights come from the checkpoint (and the base model for LoRA, with
peft's own adapter layers instead of our merge). For a release in bfloat16 or float16 every weight is rounded to that
dtype and the arithmetic stays float32, on both sides: so the tolerance is that of float32, and what a mismatch shows is
a wrong number in a file, not a kernel's rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long_hub.architecture import Architecture
from lit_long_hub.proof_reader import computing_in_float32, measure, rotary
from lit_long_hub.release_weights import ReleaseWeights

PROMPT_SEED = 20230927
_SHORT_TOKENS, _LONG_TOKENS, _FAR_TOKENS = 32, 1024, 64


@dataclass(frozen=True)
class Reference:
    """Measurements of the training model."""

    prompts: list[dict[str, Any]]
    """Name, ``input_ids`` and ``position_ids`` of every prompt."""

    logits: dict[str, torch.Tensor]
    """Prompt name to float32 [positions, V]."""

    inv_freq: torch.Tensor
    """Live rotary frequencies, float64 [D/2]."""

    attention_scaling: float
    """Factor on cos and sin."""

    dtype: torch.dtype
    """The release's dtype, which the weights were rounded to."""

    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    """Prompt name to the loss of each next token in nats, float32 [T - 1]."""


def make_prompts(
    *, vocab_size: int, native_length: int, context_length: int, decay_length: int = 0
) -> list[dict[str, Any]]:
    """Fixed prompts of seeded random tokens.

    * ``short``: up to 32 tokens from position 0;
    * ``beyond_native``: up to 1,024 consecutive positions that reach past the native length;
    * ``far``: up to 64 tokens spread evenly from position 0 to the last, so that attention spans every distance.
    * ``decay``, the third of four and only where ``decay_length`` is longer than the context: up to 64 tokens spread
      over it, so that a decay that is slow for this context shows.

    Args:
        vocab_size: Ids are drawn below it.
        native_length: The base model's length in tokens.
        context_length: The extended length in tokens.
        decay_length: Tokens over which attention scores lose half of a part (xPos), else 0.
    """
    generator = torch.Generator().manual_seed(PROMPT_SEED)
    end = min(context_length, max(native_length + _LONG_TOKENS // 2, _LONG_TOKENS))
    positions = {
        "short": range(min(_SHORT_TOKENS, context_length)),
        "beyond_native": range(max(0, end - _LONG_TOKENS), end),
        **({"decay": _spread(decay_length)} if decay_length > context_length else {}),
        "far": _spread(context_length),
    }
    return [
        {
            "name": name,
            "input_ids": torch.randint(vocab_size, (len(where),), generator=generator).tolist(),
            "position_ids": list(where),
        }
        for name, where in positions.items()
    ]


def _spread(length: int) -> list[int]:
    return [int(x) for x in torch.linspace(0, length - 1, min(_FAR_TOKENS, length)).tolist()]


def measure_reference(
    architecture: Architecture,
    weights: ReleaseWeights,
    *,
    dtype: torch.dtype,
    prompts: list[dict[str, Any]],
    adapter: bool = False,
) -> Reference:
    """Build the training model and measure it; it is freed before this returns.

    Without LoRA its weights are held in the release's dtype, else in float32 (4 bytes each) until they are merged.

    Args:
        architecture: Config and class of the model.
        weights: Where the model starts from, and the adapter of a LoRA run.
        dtype: The release's dtype.
        prompts: See ``make_prompts``.
        adapter: Whether the adapter is released by itself: then its tensors alone are rounded, and nothing is merged.
    """
    held = dtype if weights.lora is None else torch.float32
    # In that dtype already, so that transformers takes these tensors and makes no second set.
    state = {stored: _floating(weights.start.read(name), held) for stored, name in weights.start_names.items()}
    model = architecture.model_class.from_pretrained(None, config=architecture.config, state_dict=state, dtype=held)
    del state
    inv_freq, scaling, _ = rotary(model)
    if weights.lora is not None:
        source = weights.adapter
        trained = {name: source.read(name) for name in source.specs()} if source is not None else {}
        if adapter:
            trained = {name: value.to(dtype).float() for name, value in trained.items()}
        model = _with_adapter(model, trained, weights.lora, merge=dtype != torch.float32 and not adapter)
    if not adapter and dtype != torch.float32:
        for tensor in model.parameters():
            tensor.data = tensor.data.to(dtype)
    model = computing_in_float32(model)
    losses: dict[str, torch.Tensor] = {}
    logits = measure(_scaling_by_position(model) if architecture.custom_code else model, prompts, losses=losses)
    return Reference(prompts, logits, inv_freq, scaling, dtype, losses)


def _scaling_by_position(model: Any) -> Callable[..., Any]:
    """The model on the attention it was trained with, which scales queries and keys (xPos); a prompt is a document."""
    from lit_long.attention import use_packed_attention

    use_packed_attention(model, "sdpa")

    def forward(*, input_ids: torch.Tensor, **options: Any) -> Any:
        length = input_ids.shape[1]
        # Stated, for a jump in the positions of a prompt begins no document.
        ends = torch.tensor([0, length], dtype=torch.int32)
        bounds = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": length, "max_length_k": length}
        return model(input_ids=input_ids, **options, **bounds)

    return forward


def _floating(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _with_adapter(model: Any, adapter: Mapping[str, torch.Tensor], lora: Mapping[str, Any], *, merge: bool) -> Any:
    from dataclasses import fields

    from peft import LoraConfig, get_peft_model

    elsewhere = {"peft_type", "runtime_config", "auto_mapping", "base_model_name_or_path", "revision"}
    known = {field.name for field in fields(LoraConfig)} - elsewhere
    settings = {key: value for key, value in lora.items() if key in known}
    config = LoraConfig(**(settings | {"inference_mode": True, "init_lora_weights": False}))
    model = get_peft_model(model, config)
    loaded = model.load_state_dict(adapter, strict=False)
    if loaded.unexpected_keys:
        raise UserError(
            f"peft has no place for {loaded.unexpected_keys[0]}: the checkpoint's LoRA settings do not fit it."
        )
    return model.merge_and_unload() if merge else model
