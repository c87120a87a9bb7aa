"""Checks of an adapter folder before it is published."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lit_long_hub.adapter import ADAPTER_CONFIG_NAME, ADAPTER_NAME
from lit_long_hub.lora import PEFT_PREFIX
from lit_long_hub.privacy import hub_id


def adapter_problems(
    folder: Path, head: Mapping[str, Any], shard_problems: Callable[[Path, set[str] | None], list[str]]
) -> list[str]:
    """What is wrong with an adapter's files.

    Args:
        folder: The release.
        head: The card's front matter.
        shard_problems: Looks at one safetensors file.
    """
    problems = shard_problems(folder / ADAPTER_NAME, None)
    if not problems:
        problems += _name_problems(folder / ADAPTER_NAME)
    try:
        content = json.loads((folder / ADAPTER_CONFIG_NAME).read_text())
    except ValueError as error:
        return [*problems, f"{ADAPTER_CONFIG_NAME} is no JSON ({error})"]
    if not isinstance(content, dict) or content.get("peft_type") != "LORA":
        return [*problems, f"{ADAPTER_CONFIG_NAME} is not of a LoRA adapter"]
    base = content.get("base_model_name_or_path")
    if not isinstance(base, str) or hub_id(base, revision=content.get("revision")) is None:
        problems.append(f"{ADAPTER_CONFIG_NAME}: base_model_name_or_path is {base!r}, which is no Hub id")
    elif head.get("base_model") != base:
        problems.append(f"{ADAPTER_CONFIG_NAME} belongs to {base}, the card says {head.get('base_model')}")
    if not content.get("revision"):
        problems.append(f"{ADAPTER_CONFIG_NAME}: no revision; the base model may change under the adapter")
    if head.get("base_model_relation") != "adapter":
        problems.append(f"README.md: base_model_relation is {head.get('base_model_relation')!r}; it must be adapter")
    strays = sorted(path.name for path in folder.glob("*.safetensors") if path.name != ADAPTER_NAME)
    return problems + [f"{name}: whole weights beside an adapter" for name in strays]


def _name_problems(path: Path) -> list[str]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        names = json.loads(file.read(length)).keys() - {"__metadata__"}
    odd = sorted(n for n in names if not n.startswith(PEFT_PREFIX) or ".default." in n or ".original_module." in n)
    return [f"{path.name}: {odd[0]} is not named as peft names adapters"] if odd else []
