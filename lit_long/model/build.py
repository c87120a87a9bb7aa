"""Build the model that is trained: RoPE scaled in the config before weights are loaded, then verified on the module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lit_long.attention import use_packed_attention
from lit_long.errors import UserError
from lit_long.model.lora import LoraSettings, add_lora
from lit_long.rope import RopeGeometry, RopeReport, RopeScaling, scale_rope, verify_rope


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which model, at which context length.

    Exactly one of ``model`` (pretrained weights) and ``model_config`` (training from scratch) is given.
    """

    model: str | None
    model_config: dict[str, Any] | None
    revision: str | None
    rope: RopeScaling
    context_length: int
    attention: Literal["packed", "sdpa"]
    lora: LoraSettings | None
    gradient_checkpointing: bool


@dataclass(frozen=True)
class BuiltModel:
    """The model, its rope report, and the native rope geometry of the base."""

    model: Any
    native: RopeGeometry
    rope_report: RopeReport


def native_config(spec: ModelSpec) -> Any:
    """The base model's config, untouched; a small file, read without weights.

    Raises:
        UserError: neither or both of model and model_config, or a model that cannot be found or read.
    """
    from transformers import AutoConfig

    if (spec.model is None) == (spec.model_config is None):
        raise UserError("give exactly one of model (Hub id or folder) and model_config (training from scratch)")
    if spec.model_config is not None:
        options = dict(spec.model_config)
        if "model_type" not in options:
            raise UserError("model_config has no model_type; for example model_type: llama")
        try:
            return AutoConfig.for_model(options.pop("model_type"), **options)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"model_config: {_first_line(error)}") from error
    assert spec.model is not None
    folder, name = _gguf(spec.model)
    try:
        return AutoConfig.from_pretrained(folder, revision=spec.revision, **name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model {spec.model!r} cannot be read: {_first_line(error)}. Give a Hub id or a folder with config.json"
        ) from error


def build_model(spec: ModelSpec) -> BuiltModel:
    """Load or initialise the model in float32, with scaled RoPE, packed attention and adapters.

    Raises:
        UserError: see :func:`native_config`, :func:`lit_long.rope.scale_rope`, :func:`lit_long.rope.verify_rope` and
            :func:`lit_long.attention.use_packed_attention`.
    """
    from transformers import AutoModelForCausalLM

    config = native_config(spec)
    native = RopeGeometry.from_config(config)
    scaled = scale_rope(config, spec.rope, spec.context_length)
    scaled.use_cache = False
    if spec.model is None:
        model = AutoModelForCausalLM.from_config(scaled, dtype=torch.float32)
    else:
        folder, name = _gguf(spec.model)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=scaled, revision=spec.revision, dtype=torch.float32, use_safetensors=True, **name
        )
        if name:  # dequantised weights are plain float32 from here on
            model.hf_quantizer, model.is_quantized = None, False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
    report = verify_rope(model, spec.rope, native, spec.context_length)
    if spec.attention == "packed":
        use_packed_attention(model)
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if spec.lora is not None:
        if spec.gradient_checkpointing:
            model.enable_input_require_grads()
        model = add_lora(model, spec.lora)
    return BuiltModel(model, native, report)


def _gguf(name: str) -> tuple[str, dict[str, str]]:
    """A GGUF file as transformers wants it: its folder, and its name as keyword."""
    path = Path(name)
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (name, {})


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
