"""What export needs to know of a checkpoint of somebody's own LightningModule, which holds no record of lit-long's.

A Lightning checkpoint has weights and no architecture, so the user says where its config is. It must be the config that
was trained, RoPE included: the proof compares a release with the model that this config and the weights make, and
cannot know that training had other positions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long.model.inference import CHECKPOINT_FORMAT
from lit_long.repository import model_at


@dataclass(frozen=True)
class PlainModel:
    """How a LightningModule of the user's own holds its transformers model."""

    config: str
    """Folder or Hub id with the config.json of the model that was trained."""

    attribute: str = "model"
    """Name of the transformers model within the LightningModule."""

    native_length: int | None = None
    """Context length of the base model in tokens; None is the config's own length: nothing was extended."""


def plain_record(plain: PlainModel) -> dict[str, Any]:
    """The entry that a lit-long checkpoint would hold.

    Args:
        plain: What the user says.

    Raises:
        UserError: No config there, one without a context length or rotary positions, or a native length that is longer.
    """
    from transformers import AutoConfig

    name, revision = model_at(plain.config)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--config-from {plain.config!r} cannot be read: {reason}") from error
    length, rope = getattr(config, "max_position_embeddings", None), getattr(config, "rope_parameters", None) or {}
    if not isinstance(length, int) or not rope.get("rope_theta"):
        raise UserError(
            f"{plain.config}: its config has no max_position_embeddings or no rotary positions of one kind; there is "
            "no context length to publish."
        )
    native = plain.native_length or length
    if native > length:
        raise UserError(f"--native-length is {native}, the config's max_position_embeddings only {length}.")
    values = {key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "dtype")}
    return {
        "format": CHECKPOINT_FORMAT,
        "version": "none",
        "config": values,
        "rope": {
            "method": str(rope.get("rope_type", "default")),
            "options": {},
            "native_length": native,
            "native_base": None,
            "context_length": length,
        },
        "base_model": None,
        "base_revision": None,
        "tokenizer": str(Path(name).resolve()) if Path(name).exists() else plain.config,
        "lora": None,
        "training": {},
        "versions": {},
    }
