"""A LoRA run as an adapter: small, but it belongs to one revision of one base model, and to the positions beside it.

``adapter_config.json`` has no place for a change of RoPE, so every reader that goes by it alone takes the base model's
positions and gives other logits without a word (peft, ``AutoPeftModelForCausalLM``, engines with adapter support). The
positions are therefore in ``config.json`` of the same folder, the card says how to load the two together, and the proof
measures both: that way, which must agree, and the other, to say by how much it is off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long.repository import model_at
from lit_long_hub.architecture import Architecture, match_names
from lit_long_hub.checkpoint import Checkpoint
from lit_long_hub.convert import WeightPlan, plan_weights
from lit_long_hub.lora import PEFT_PREFIX, MergedWeights
from lit_long_hub.privacy import hub_id
from lit_long_hub.release_weights import ReleaseWeights
from lit_long_hub.weights import cached_folder, model_file, safetensors_of

ADAPTER_NAME = "adapter_model.safetensors"
ADAPTER_CONFIG_NAME = "adapter_config.json"
_ADAPTER = "default"
_OF_THE_RUN = ("runtime_config", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode")


@dataclass(frozen=True)
class AdapterBase:
    """The public base model that an adapter belongs to."""

    name: str
    """Hub id."""

    revision: str
    """The commit that was read."""

    folder: Path
    """Its snapshot on this machine."""


def find_base(source: Checkpoint, given: str | None) -> AdapterBase:
    """The base model as readers will find it: a Hub id at one commit, fetched if it is not here.

    Args:
        source: The checkpoint.
        given: Hub id (``org/name`` or ``hf://org/name@revision``) where the run began from a folder.

    Raises:
        UserError: The run has no adapter, the base is a folder, or the Hub does not have it.
    """
    if not source.record.get("lora"):
        raise UserError(f"{source.path} is of a run without LoRA: there is no adapter to export. Leave --adapter out.")
    name, revision = model_at(given) if given else source.base_model(None)
    if name is None or (hub_id(name, revision=revision) is None):
        raise UserError(
            f"An adapter names the base model that it belongs to, and readers could not find {name or 'an unnamed one'}"
            ": it is no Hub id. Publish it and say --base-model ORG/NAME (or hf://ORG/NAME@REVISION); or export the "
            "merged model, without --adapter."
        )
    safetensors_of(name, revision)
    model_file(name, "config.json", revision)
    folder = cached_folder(name, revision)
    if folder is None or folder.parent.name != "snapshots":
        raise UserError(f"The base model {name} has no commit on the Hub that an adapter could name; give its Hub id.")
    return AdapterBase(name, folder.name, folder)


def open_adapter(source: Checkpoint, architecture: Architecture, base: AdapterBase) -> ReleaseWeights:
    """Open the trained tensors of a LoRA run for a release, and the weights that they were trained on for its proof.

    The proof's own base is the folder that the run began from, where it is still there; else the public one.

    Raises:
        UserError: Tensors that do not fit the architecture or the base.
    """
    trained_on, revision = source.base_model(None)
    if trained_on is None or cached_folder(trained_on, revision) is None:
        trained_on, revision = str(base.folder), None
    start = safetensors_of(trained_on, revision)
    names = match_names(architecture, start.specs(), source=f"the base model {trained_on}")
    lora = source.record["lora"]
    # Says what is no plain LoRA of this model; nothing is merged.
    MergedWeights(base=start, base_names=names, adapter=source.weights, lora=lora, architecture=architecture)
    kept = {peft_name(name): name for name in source.weights.specs() if ".original_module." not in name}
    return ReleaseWeights(source.weights, kept, start, names, source.weights, lora, base_files=[])


def peft_name(name: str) -> str:
    """A tensor's name in an adapter file, from its name in a running peft model."""
    name = name if name.startswith(PEFT_PREFIX) else PEFT_PREFIX + name
    name = name.replace(f".modules_to_save.{_ADAPTER}.", ".")
    for part in ("lora_A", "lora_B"):
        name = name.replace(f".{part}.{_ADAPTER}.", f".{part}.")
    return name


def plan_adapter(weights: ReleaseWeights, *, dtype: Any) -> WeightPlan:
    """All tensors in one file, as peft reads them."""
    plan = plan_weights(weights.release.specs(), weights.release_names, dtype=dtype, max_shard_size="1000TB")
    return WeightPlan(plan.tensors, plan.source_names, {ADAPTER_NAME: list(plan.tensors)}, plan.dtype)


def adapter_config(lora: Mapping[str, Any], base: AdapterBase) -> dict[str, Any]:
    """The content of adapter_config.json."""
    return {
        **{key: value for key, value in sorted(lora.items()) if key not in _OF_THE_RUN},
        "peft_type": "LORA",
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
    }


def whole_tensors(plan: WeightPlan) -> list[str]:
    """Names, in the model, of tensors that were trained whole beside the low-rank ones."""
    return sorted(name.removeprefix(PEFT_PREFIX) for name in plan.tensors if ".lora_" not in name)
