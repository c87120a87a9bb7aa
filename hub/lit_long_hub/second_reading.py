"""Reads the tensors of a release a second time, by other code than the writer's, to compare files with them bit by bit.

The writer streams blocks through ``ShardReader`` and merges LoRA in rows. Here PyTorch's own reader puts a tensor of a
sharded checkpoint together, a file's tensor is taken whole, and peft merges an adapted matrix by its own rule. In
memory are a tensor and one of its stored pieces; of an adapted matrix, several copies in float32.
"""

import warnings
from typing import Any

import torch

from lit_long_hub.lora import MergedWeights
from lit_long_hub.release_weights import ReleaseWeights
from lit_long_hub.weights import ShardedWeights, WeightSource

MERGE_TOLERANCE = 1e-5
"""Of the largest value in a merged matrix, in float32: what the order of additions may change."""


class SecondReading:
    """The tensors of a release, read again.

    Args:
        weights: Where the writer reads them.
    """

    def __init__(self, weights: ReleaseWeights) -> None:
        self._weights = weights
        self.merged = 0
        """Matrices that an adapter was merged into and peft merged again."""

        self.merge_difference = 0.0
        """Largest difference from peft's merge so far, of the largest value in the matrix, in float32."""

    def read(self, name: str) -> torch.Tensor:
        """One tensor as it must be stored, before it is cast.

        Args:
            name: Name in the release.
        """
        source, stored = self._weights.release, self._weights.release_names[name]
        if isinstance(source, MergedWeights):
            if (parts := source.parts(stored)) is not None:
                return self._merged_again(stored, parts)
            source, stored = source.origin(stored)
        return _read_by_other_code(source, stored)

    def _merged_again(self, name: str, parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The merge, whole; peft's own of the same matrix must agree before it counts."""
        settings = self._weights.lora or {}
        ours, theirs = self._weights.release.read(name), _merge_by_peft(*parts, settings)
        difference = (ours - theirs).abs().max().item() / max(theirs.abs().max().item(), 1e-30)
        if not difference <= MERGE_TOLERANCE:
            raise MergeMismatchError(
                f"{name} with the adapter merged differs from peft's own merge by {difference:.3g}"
            )
        self.merged, self.merge_difference = self.merged + 1, max(self.merge_difference, difference)
        return ours


class MergeMismatchError(RuntimeError):
    """The streamed merge of an adapter is not peft's."""


def _read_by_other_code(source: WeightSource, name: str) -> torch.Tensor:
    if not isinstance(source, ShardedWeights):
        return source.read(name)
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import Metadata

    folder, table, stored = source.place(name)

    class SafeTable(dcp.FileSystemReader):
        """PyTorch's reader, but for its unpickling of the table of contents, which could run code."""

        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            return table

    entry: Any = table.state_dict_metadata[stored]
    tensor = {stored: torch.empty(entry.size, dtype=entry.properties.dtype)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it runs in one process
        planner = dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        dcp.load(tensor, storage_reader=SafeTable(folder), planner=planner, no_dist=True)
    return tensor[stored]


def _merge_by_peft(base: torch.Tensor, down: torch.Tensor, up: torch.Tensor, settings: Any) -> torch.Tensor:
    """One matrix [out, in] with its adapter ([r, in] and [out, r]) merged by peft, float32."""
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        model = torch.nn.ModuleDict({"layer": torch.nn.Linear(base.shape[1], base.shape[0], bias=False)})
    config = LoraConfig(
        r=down.shape[0],
        lora_alpha=settings["lora_alpha"],
        use_rslora=bool(settings.get("use_rslora")),
        target_modules=["layer"],
        init_lora_weights=False,
    )
    wrapped = get_peft_model(model, config, low_cpu_mem_usage=True)
    prefix = "base_model.model.layer"
    state = {
        f"{prefix}.base_layer.weight": base.float(),
        f"{prefix}.lora_A.default.weight": down.float(),
        f"{prefix}.lora_B.default.weight": up.float(),
    }
    wrapped.load_state_dict(state, assign=True)
    merged: torch.Tensor = wrapped.merge_and_unload().get_submodule("layer").weight
    return merged.detach()
