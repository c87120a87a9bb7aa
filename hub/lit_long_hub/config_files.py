"""Writes config.json and generation_config.json so that every generation of readers sees the same positions.

transformers 5 saves RoPE only as ``rope_parameters``; transformers 4 and several engines read only ``rope_theta`` and
``rope_scaling``, and fall back to base 10,000 without a word. Both forms are written here. The price: transformers 5
drops the old keys again when a user re-saves the model.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long.rope.xpos import SCALE_BASE_KEY, XPOS
from lit_long_hub.architecture import Architecture
from lit_long_hub.atomic_file import write_json

_NEEDS_ORIGINAL = ("yarn", "llama3")
PROVABLE = ("default", "linear", *_NEEDS_ORIGINAL)
_NEEDS_FACTOR = ("linear", *_NEEDS_ORIGINAL)


def rope_parameters(config: Any) -> dict[str, Any]:
    """The config's ``rope_parameters``, checked for what readers fill in silently and wrongly.

    Args:
        config: A transformers config.

    Raises:
        UserError: No rotary positions, one set per layer type, a method without a rule for older readers, or a
            missing ``rope_theta`` (readers take 10,000) or ``original_max_position_embeddings`` (readers take the
            extended length).
    """
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, Mapping) or not rope:
        raise UserError(
            f"Model type {config.model_type!r} has no rotary positions: there is no context extension to export."
        )
    if "rope_type" not in rope:
        raise UserError(
            "Models with rotary positions per layer type cannot be exported yet: older readers have no common form "
            f"for them (rope_parameters is {dict(rope)})."
        )
    kind = rope["rope_type"]
    if kind not in (*PROVABLE, XPOS):  # xPos has code of its own, which alone reads it
        raise UserError(f"rope_type {kind!r} cannot be proved for older readers yet; supported: {', '.join(PROVABLE)}.")
    needed = ["rope_theta"]
    needed += ["factor"] if kind in _NEEDS_FACTOR else []
    needed += ["original_max_position_embeddings"] if kind in _NEEDS_ORIGINAL else []
    needed += [SCALE_BASE_KEY] if kind == XPOS else []
    if missing := [key for key in needed if not rope.get(key)]:
        raise UserError(f"rope_parameters of type {kind!r} lack {', '.join(missing)}: readers would guess it wrongly.")
    return {key: value for key, value in rope.items() if value is not None and key != "type"}


def release_config(
    architecture: Architecture,
    *,
    context_length: int,
    dtype: torch.dtype,
    token_ids: Mapping[str, int | list[int]],
) -> dict[str, Any]:
    """The content of config.json.

    Args:
        architecture: The trained model's architecture.
        context_length: Extended length in tokens.
        dtype: Of the weights.
        token_ids: Special token ids (``special_ids``).

    Returns:
        A JSON-ready dict with both RoPE forms, both dtype keys and no local paths.

    Raises:
        UserError: See ``rope_parameters``; and YaRN whose factor is not the context over the original length, which
            several engines derive instead of reading it.
    """
    rope = rope_parameters(architecture.config)
    if rope["rope_type"] == "yarn":
        implied = rope["factor"] * rope["original_max_position_embeddings"]
        if not math.isclose(implied, context_length, rel_tol=1e-6):
            raise UserError(
                f"YaRN factor {rope['factor']} x original length {rope['original_max_position_embeddings']} is "
                f"{implied:g}, but the context length is {context_length}: "
                "engines that derive one from the other would differ."
            )
    content = architecture.config.to_diff_dict()
    content = {key: value for key, value in content.items() if not key.startswith("_") and key != "auto_map"}
    if content.get("head_dim", 0) is None:
        del content["head_dim"]  # transformers 4 takes a null literally
    name = str(dtype).removeprefix("torch.")
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    content |= {
        **token_ids,
        "architectures": [architecture.model_class.__name__],
        "model_type": architecture.config.model_type,
        "max_position_embeddings": context_length,
        "rope_parameters": rope,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None if rope["rope_type"] == "default" else scaling,
        # Base-class defaults differ between transformers 4 and 5, so this one is always written.
        "tie_word_embeddings": bool(getattr(architecture.config, "tie_word_embeddings", False)),
        "dtype": name,
        "torch_dtype": name,
        "use_cache": True,
    }
    if "partial_rotary_factor" in rope:
        content["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if architecture.custom_code is not None:
        content |= architecture.custom_code.config_keys()
    return dict(sorted(content.items()))


def write_config(folder: Path, content: Mapping[str, Any]) -> str:
    """Write config.json (last of the loadable files, since a folder without it loads nowhere); returns its name."""
    write_json(folder / "config.json", dict(content))
    return "config.json"


def special_ids(
    config: Any, token_ids: Mapping[str, int | None], *, stop: int | None = None
) -> dict[str, int | list[int]]:
    """The special token ids of a release, those that exist.

    Args:
        config: The transformers config, whose ids stand where the tokenizer has none. A list of several end tokens
            that contains the tokenizer's is kept, for chat models stop at each of them.
        token_ids: ``bos_token_id``, ``eos_token_id`` and ``pad_token_id`` of the tokenizer.
        stop: token that answers end with in the chats that were trained on, an end token beside the others.
    """
    result: dict[str, int | list[int]] = {}
    for key, value in token_ids.items():
        configured = getattr(config, key, None)
        if value is None or (isinstance(configured, list) and value in configured):
            value = configured
        if value is not None:
            result[key] = value
    ends = result.get("eos_token_id", [])
    ends = ends if isinstance(ends, list) else [ends]
    if stop is not None and stop not in ends:
        result["eos_token_id"] = [*ends, stop] if ends else stop
    return result


def write_generation_config(folder: Path, token_ids: Mapping[str, int | list[int]]) -> str:
    """Write generation_config.json, the special token ids and nothing invented; returns its name."""
    import transformers

    write_json(folder / "generation_config.json", {**token_ids, "transformers_version": transformers.__version__})
    return "generation_config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """The raw content of a folder's config.json, as a reader without transformers sees it."""
    return json.loads((folder / "config.json").read_text())
