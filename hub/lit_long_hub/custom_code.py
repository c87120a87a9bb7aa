"""Models that need code of their own in the release: today those trained with xPos, on Llama.

The code stands ready in ``templates/``, needs torch and transformers alone, and has a model type that transformers does
not know: what cannot run the code stops, where a stock type would load and leave the scaling out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long.rope.xpos import SCALE_BASE_KEY, XPOS
from lit_long_hub.atomic_file import write_text

CODE_PATTERNS = ("configuration_xpos_*.py", "modeling_xpos_*.py")
"""Files that an earlier export may have left."""


@dataclass(frozen=True)
class CustomCode:
    """The code of one model family."""

    model_type: str
    """In config.json, and at the end of the file names."""

    config_class: str
    """Class of the config."""

    decoder_class: str
    """Class of the model without its head."""

    model_class: str
    """Class of the causal language model."""

    @property
    def files(self) -> tuple[str, str]:
        """Names of the code's files in ``templates/`` and in the release."""
        return f"configuration_{self.model_type}.py", f"modeling_{self.model_type}.py"

    def config_keys(self) -> dict[str, Any]:
        """What config.json says of the code."""
        configuration, modeling = (name.removesuffix(".py") for name in self.files)
        return {
            "model_type": self.model_type,
            "architectures": [self.model_class],
            "auto_map": {
                "AutoConfig": f"{configuration}.{self.config_class}",
                "AutoModel": f"{modeling}.{self.decoder_class}",
                "AutoModelForCausalLM": f"{modeling}.{self.model_class}",
            },
        }


_BY_MODEL_TYPE = {"llama": CustomCode("xpos_llama", "XPosLlamaConfig", "XPosLlamaModel", "XPosLlamaForCausalLM")}


def custom_code(config: Mapping[str, Any]) -> CustomCode | None:
    """The code that a release of this model needs; None where plain transformers has it.

    Args:
        config: ``config.to_dict()`` of the trained model.

    Raises:
        UserError: It was trained with xPos and is of a family without code here.
    """
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") != XPOS:
        return None
    model_type = str(config["model_type"])
    if model_type not in _BY_MODEL_TYPE:
        raise UserError(
            f"The model was trained with xPos (rope method xpos_abf), which no plain model has: a release holds code "
            f"for it, which exists for model type {', '.join(_BY_MODEL_TYPE)} and not for {model_type!r}. Measure it "
            "with lit-long evaluate, or train with rope method abf to export."
        )
    if not rope.get(SCALE_BASE_KEY):
        raise UserError(f"rope_parameters of type {XPOS!r} lack {SCALE_BASE_KEY}: {dict(rope)}.")
    for place in (rope, config):
        if (place.get("partial_rotary_factor") or 1.0) != 1.0:
            raise UserError("A model that rotates a part of each head and was trained with xPos cannot be exported.")
    return _BY_MODEL_TYPE[model_type]


def decay_length(config: Mapping[str, Any]) -> int:
    """Tokens over which the fastest frequency's part of a score halves under xPos; 0 without xPos.

    Args:
        config: ``config.to_dict()`` of the trained model.
    """
    rope = config.get("rope_parameters") or {}
    return math.ceil(rope[SCALE_BASE_KEY] / math.log2(1.4 / 0.4)) if rope.get("rope_type") == XPOS else 0


def check_dtype(code: CustomCode | None, dtype: torch.dtype) -> None:
    """Refuse a release in a dtype that its code does not run in.

    Raises:
        UserError: float16 with xPos.
    """
    if code is not None and dtype == torch.float16:
        raise UserError(
            "xPos scales queries and keys beyond the range of float16. Export with --dtype bfloat16 or float32."
        )


def write_code(code: CustomCode | None, folder: Path) -> list[str]:
    """Write the code into a release; returns the names of its files."""
    if code is None:
        return []
    templates = resources.files("lit_long_hub") / "templates"
    for name in code.files:
        write_text(folder / name, (templates / name).read_text(encoding="utf-8"))
    return list(code.files)
