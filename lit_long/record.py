"""What a training checkpoint says about itself: enough to rebuild, export and describe the model, as plain values only.

Plain values, because checkpoints are read with ``weights_only=True`` (no code from a file is ever run), and because
Lightning's own ``hyper_parameters`` would override the command line at resume (lightning PR #21455).
"""

from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lit_long import __version__
from lit_long.model.build import ModelSpec
from lit_long.model.inference import CHECKPOINT_FORMAT
from lit_long.optim import OptimizerSettings
from lit_long.rope import RopeGeometry


def checkpoint_record(
    *,
    spec: ModelSpec,
    config: Any,
    native: RopeGeometry,
    tokenizer: str | None,
    lora: dict[str, Any] | None,
    optimizer: OptimizerSettings,
    trainer: Any,
    seconds: float,
) -> dict[str, Any]:
    """The ``lit_long`` entry of a checkpoint."""
    return {
        "format": CHECKPOINT_FORMAT,
        "version": __version__,
        "config": _plain_config(config),
        "rope": {
            "method": spec.rope.name,
            "options": spec.rope.options(),
            "native_length": native.native_length,
            "native_base": native.base,
            "context_length": spec.context_length,
        },
        "base_model": _lasting_name(spec.model),
        "base_revision": spec.revision,
        "tokenizer": _lasting_name(tokenizer),
        "lora": lora,
        "training": _training(optimizer, trainer) | {"seconds": seconds},
        "versions": {
            "lit-long": __version__,
            **{name: version(name) for name in ("torch", "transformers", "lightning", "peft")},
        },
    }


def _lasting_name(name: str | None) -> str | None:
    """A folder by its absolute path, so that it is found from anywhere and never taken for a Hub id."""
    return str(Path(name).resolve()) if name is not None and Path(name).exists() else name


def _plain_config(config: Any) -> dict[str, Any]:
    """A transformers config as plain values, without the path it came from."""
    values = dict(config.to_dict())
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        values.pop(key, None)
    values["use_cache"] = True
    plain: dict[str, Any] = _to_plain(values)
    return plain


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(v) for v in value]
    if value is None or type(value) in (bool, int, float, str):  # a str enum is not plain: weights_only refuses it
        return value
    return str(value.value) if isinstance(value, Enum) else str(value)


def _training(optimizer: OptimizerSettings, trainer: Any) -> dict[str, Any]:
    data = getattr(trainer, "datamodule", None)
    describe = getattr(data, "describe", None)
    about: dict[str, Any] = describe() if callable(describe) else {}
    loss = trainer.callback_metrics.get("loss")
    steps = int(trainer.global_step)
    if "tokens_per_step" in about:
        about["tokens"] = steps * about["tokens_per_step"]
    return {
        **about,
        "steps": steps,
        "learning_rate": optimizer.learning_rate,
        "warmup_steps": optimizer.warmup_steps,
        "final_lr_ratio": optimizer.final_lr_ratio,
        "rewarm_steps": optimizer.rewarm_steps,
        "weight_decay": optimizer.weight_decay,
        "betas": list(optimizer.betas),
        "eps": optimizer.eps,
        "optimizer_states": optimizer.states,
        "precision": str(trainer.precision),
        "last_loss": float(loss) if isinstance(loss, torch.Tensor) else None,
        "device": _device_name(trainer),
    }


def _device_name(trainer: Any) -> str:
    count = int(trainer.world_size)
    root = trainer.strategy.root_device
    name = torch.cuda.get_device_name(root) if root.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"{count} x {name}" if count > 1 else str(name)
