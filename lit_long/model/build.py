"""Build the model that is trained: RoPE scaled in the config before weights are loaded, then verified on the module."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from lit_long.attention import attention_trial, use_packed_attention
from lit_long.errors import UserError
from lit_long.model.choose import decide_levers
from lit_long.model.levers import NO_LEVERS, Levers, apply_levers
from lit_long.model.lora import LoraSettings, add_lora
from lit_long.model.memory import RunFacts
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
    attention_backend: str = "auto"
    lora: LoraSettings | None
    levers: Levers = NO_LEVERS


class Placement(Protocol):
    """Where a model's weights go; for models that no process can hold whole (:mod:`lit_long.parallel`)."""

    def empty(self, make: Callable[[], Any], *, pretrained: bool) -> Any:
        """Call ``make``, so that weights which will be loaded take no memory."""
        ...

    def place(self, model: Any) -> None:
        """Shard the finished model and fill it."""
        ...


@dataclass(frozen=True)
class BuiltModel:
    """The model, the native rope geometry of the base, the rope report, and the levers on it with their reasons."""

    model: Any
    native: RopeGeometry
    rope_report: RopeReport
    levers: Levers
    reasons: tuple[str, ...] = ()


def native_config(spec: ModelSpec) -> Any:
    """The base model's config, untouched; a small file, read without weights.

    Raises:
        UserError: neither or both of model and model_config, adapters on a model without weights, or a model that
            cannot be found or read.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if (spec.model is None) == (spec.model_config is None):
        raise UserError("give exactly one of model (Hub id or folder) and model_config (training from scratch)")
    if spec.lora is not None and spec.model is None:
        raise UserError(
            "lora needs a pretrained model: checkpoints leave the frozen weights out, and random ones are lost"
        )
    if spec.model_config is not None:
        options = dict(spec.model_config)
        if "model_type" not in options:
            raise UserError("model_config has no model_type; for example model_type: llama")
        try:
            return AutoConfig.for_model(options.pop("model_type"), **options)
        except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
            raise UserError(f"model_config: {_short(error)}") from error
    assert spec.model is not None
    try:
        folder, name = _gguf(spec.model)
        return AutoConfig.from_pretrained(folder, revision=spec.revision, trust_remote_code=False, **name)
    except (OSError, ValueError, KeyError, ImportError, StrictDataclassError) as error:
        raise UserError(
            f"model {spec.model!r} cannot be read: {_short(error)}. Give a Hub id or a folder with config.json"
        ) from error


def build_model(spec: ModelSpec, run: RunFacts | None = None, placement: Placement | None = None) -> BuiltModel:
    """Load or initialise the model in float32, with scaled RoPE, packed attention, adapters and levers.

    Args:
        spec: the model.
        run: what levers that are ``auto`` are chosen by; without it those are off.
        placement: shards the model and loads each device's share; default: it is whole, on the CPU.

    Raises:
        UserError: see :func:`native_config`, :func:`load_pretrained`, :func:`lit_long.rope.scale_rope`,
            :func:`lit_long.rope.verify_rope`, :func:`lit_long.attention.use_packed_attention`,
            :func:`lit_long.model.lora.add_lora` and :func:`lit_long.model.levers.apply_levers`.
    """
    from transformers import AutoModelForCausalLM

    config = native_config(spec)
    native = RopeGeometry.from_config(config)
    scaled = scale_rope(config, spec.rope, spec.context_length)
    scaled.use_cache = False

    def fresh() -> Any:
        return AutoModelForCausalLM.from_config(scaled, dtype=torch.float32)

    if placement is not None:
        model = placement.empty(fresh, pretrained=spec.model is not None)
    elif spec.model is None:
        model = fresh()
    else:
        model = load_pretrained(spec.model, revision=spec.revision, config=scaled)
    if spec.attention == "packed":
        use_packed_attention(model, spec.attention_backend)
    if spec.lora is not None:
        model = add_lora(model, spec.lora)
    levers, reasons = decide_levers(model, spec.levers, run)
    apply_levers(model, levers)
    if placement is not None:
        placement.place(model)
    with attention_trial(model, "sdpa"):  # a kernel that was pinned for the dtype of training may refuse this one
        report = verify_rope(model, spec.rope, native, spec.context_length)  # xPos is in the attention
    return BuiltModel(model.train(), native, report, levers, reasons)


def load_pretrained(name: str, *, revision: str | None = None, config: Any = None) -> Any:
    """Pretrained weights in float32 from safetensors or GGUF, all of them.

    Args:
        name: Hub id, folder, or GGUF file (``folder/file.gguf``).
        revision: Hub revision.
        config: config to use instead of the one beside the weights.

    Raises:
        UserError: nothing loadable there, or tensors of the model are missing (transformers would only warn, and train
            random numbers).
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        folder, file = _gguf(name)
        options: dict[str, Any] = {**file} if config is None else {**file, "config": config}
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        raise UserError(
            f"model {name!r} cannot be loaded: {_short(error)}. Give a Hub id or a folder (config.json, safetensors)"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"model {name!r} lacks {len(missing)} tensors of a {model.config.model_type} model (first {missing[:2]}); "
            f"they would start as random numbers. Is it the whole model, of this type?"
        )
    if file:  # dequantised weights are plain float32 from here on
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    return model


def _gguf(name: str) -> tuple[str, dict[str, str]]:
    """A GGUF file as transformers wants it: its folder, and its name as keyword.

    Raises:
        FileNotFoundError: a path that is not there; transformers would ask the Hub for it, for minutes.
    """
    path = Path(name)
    if not path.exists() and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
        raise FileNotFoundError("no such file or folder here, and no Hub id")
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (name, {})


def _short(error: Exception) -> str:
    """The two lines in which transformers says what is wrong, of an error that may go on for pages."""
    lines = str(error).split("\n", 2)[:2]
    return " ".join(line.strip() for line in lines)[:300] or type(error).__name__
