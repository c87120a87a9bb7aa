"""Finds the weights of a release: the checkpoint's own, or the base model's with the run's LoRA adapter merged in."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long_hub.architecture import Architecture, match_names
from lit_long_hub.checkpoint import Checkpoint
from lit_long_hub.lora import MergedWeights
from lit_long_hub.weights import WeightSource, safetensors_of


@dataclass(frozen=True)
class ReleaseWeights:
    """The weights to write, and those that the training model is rebuilt from for the proof."""

    release: WeightSource
    """What is written."""

    release_names: dict[str, str]
    """Name in the release to name in ``release``, in the model's order."""

    start: WeightSource
    """Without LoRA the same; with LoRA the base model's, unmerged."""

    start_names: dict[str, str]
    """Name in the release to name in ``start``."""

    adapter: WeightSource | None = None
    """The trained tensors of a LoRA run, named as peft names them."""

    lora: Mapping[str, Any] | None = None
    """The adapter's config."""

    base_files: list[Path] = field(default_factory=list)
    """The base model's weight files, with LoRA."""


def open_weights(
    source: Checkpoint, architecture: Architecture, *, base: str | None, revision: str | None
) -> ReleaseWeights:
    """Open the weights of a checkpoint and match them with its architecture.

    Args:
        source: The checkpoint.
        architecture: What its config describes.
        base: Folder or Hub id of the base model; read for LoRA only.
        revision: Of a Hub repository.

    Raises:
        UserError: Tensors that do not fit the architecture, a base model that cannot be read, an adapter that cannot
            be merged exactly.
    """
    lora = source.record.get("lora")
    if not lora:
        weights = source.weights
        names = match_names(architecture, weights.specs(), source=f"the checkpoint {source.path}")
        _check_ties(source, architecture)
        return ReleaseWeights(weights, names, weights, names)
    if not base:
        raise UserError("The checkpoint holds a LoRA adapter and names no base model. Give it with --base-model.")
    start = safetensors_of(base, revision)
    names = match_names(architecture, start.specs(), source=f"the base model {base}")
    merged = MergedWeights(base=start, base_names=names, adapter=source.weights, lora=lora, architecture=architecture)
    return ReleaseWeights(
        merged, {name: name for name in names}, start, names, source.weights, lora, base_files=start.files
    )


def _check_ties(source: Checkpoint, architecture: Architecture) -> None:
    specs = source.weights.specs()
    for alias, kept in architecture.aliases.items():
        # By hashes, so that at most one of the two, the largest tensors of a model, is in memory.
        if alias in specs and kept in specs and _digest(source, alias) != _digest(source, kept):
            raise UserError(
                f"The config ties {alias} to {kept}, but {source.path} holds different values for them: storing one "
                "would lose the other. Train with tie_word_embeddings: false to keep both."
            )


def _digest(source: Checkpoint, name: str) -> bytes:
    digest = hashlib.sha256()
    for block in source.weights.blocks(name):
        digest.update(block.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
