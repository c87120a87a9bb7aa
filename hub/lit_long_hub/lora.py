"""Merges a LoRA adapter into its base, tensor by tensor: ``W + scale * (B @ A)`` in float32.

A release of a LoRA run is merged by default, because an adapter cannot carry a change of RoPE: every loader takes the
base model's positions, and the logits differ without a word. Plain LoRA and rank-stabilised LoRA merge exactly this
way (Hu et al. 2021, section 4.1; Kalajdzievski 2023: ``alpha / sqrt(r)``); variants whose merge is another formula, or
whose initialisation changed the base weights, are refused.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long_hub.architecture import Architecture
from lit_long_hub.weights import TensorSpec, WeightSource

PEFT_PREFIX = "base_model.model."
_ADAPTER = "default"
_FREE = {
    "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "bias", "use_rslora", "modules_to_save",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "inference_mode", "peft_type",
    "base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version", "runtime_config",
}  # fmt: skip
_PIECE = 4 * 2**20
"""Elements that are merged at a time: 16 MiB as float32, of which there are three."""

_PLAIN_STARTS = (True, False, "gaussian", "orthogonal")


class MergedWeights:
    """The base model's weights with an adapter merged in; float32 where the adapter changes a matrix.

    Args:
        base: The base model's weights.
        base_names: Stored name to the name in ``base`` (``architecture.match_names``).
        adapter: The trained tensors of the run, named as peft names them; read when they are needed.
        lora: The adapter's config as a dict.
        architecture: The model, for the other names of tied tensors.

    Raises:
        UserError: A LoRA variant that this does not merge exactly, or a tensor that belongs to none of the layers.
    """

    def __init__(
        self,
        *,
        base: WeightSource,
        base_names: Mapping[str, str],
        adapter: WeightSource,
        lora: Mapping[str, Any],
        architecture: Architecture,
    ) -> None:
        check_mergeable(lora)
        self._base, self._base_names = base, base_names
        self._alpha, self._rslora = float(lora["lora_alpha"]), bool(lora.get("use_rslora"))
        self._adapter, self._specs = adapter, adapter.specs()
        self._low_rank: dict[str, dict[str, str]] = {}
        self._trained: dict[str, str] = {}
        for name in self._specs:
            self._sort(name, architecture)
        self._check_pairs(architecture)

    def specs(self) -> dict[str, TensorSpec]:
        """Names, shapes and dtypes of the merged model."""
        base = self._base.specs()
        result = {}
        for stored, name in self._base_names.items():
            dtype = torch.float32 if stored in self._low_rank else base[name].dtype
            result[stored] = TensorSpec(base[name].shape, dtype)
            if stored in self._trained:
                result[stored] = self._specs[self._trained[stored]]
        return result

    def read(self, name: str) -> torch.Tensor:
        """One tensor of the merged model: trained, merged or the base's own."""
        if name in self._trained:
            return self._adapter.read(self._trained[name])
        if name in self._low_rank:
            return torch.cat(list(self.blocks(name)))
        return self._base.read(self._base_names[name])

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """The same in blocks of rows: beside the base's own tensor, no whole one is in memory."""
        if name in self._trained:
            yield from self._adapter.blocks(self._trained[name])
        elif name in self._low_rank:
            yield from self._merge(name)
        else:
            yield from self._base.blocks(self._base_names[name])

    def parts(self, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """The base's matrix and the adapter's two (``lora_A``, ``lora_B``), unmerged; None where nothing is merged."""
        if name not in self._low_rank:
            return None
        down, up = (self._adapter.read(self._low_rank[name][part]) for part in ("lora_A", "lora_B"))
        return self._base.read(self._base_names[name]), down, up

    def origin(self, name: str) -> tuple[WeightSource, str]:
        """Where a tensor that nothing is merged into is read, and its name there."""
        if name in self._trained:
            return self._adapter, self._trained[name]
        return self._base, self._base_names[name]

    def _merge(self, name: str) -> Iterator[torch.Tensor]:
        down, up = (self._adapter.read(self._low_rank[name][part]).float() for part in ("lora_A", "lora_B"))
        rank, width = down.shape
        scale = self._alpha / (math.sqrt(rank) if self._rslora else rank)
        done = 0
        for block in self._base.blocks(self._base_names[name]):
            for rows in block.split(max(1, _PIECE // width)):
                yield rows.float() + scale * (up[done : done + len(rows)] @ down)
                done += len(rows)

    def _sort(self, name: str, architecture: Architecture) -> None:
        plain = name.removeprefix(PEFT_PREFIX)
        for part in ("lora_A", "lora_B"):
            suffix = f".{part}.{_ADAPTER}.weight"
            if plain.endswith(suffix):
                stored = f"{plain.removesuffix(suffix)}.weight"
                self._low_rank.setdefault(architecture.aliases.get(stored, stored), {})[part] = name
                return
        if ".original_module." in plain:  # the untouched copy that peft keeps beside a module it trains
            return
        plain = plain.replace(f".modules_to_save.{_ADAPTER}.", ".").replace(".base_layer.", ".")
        plain = architecture.aliases.get(plain, plain)
        if plain not in self._base_names:
            raise UserError(
                f"The checkpoint holds {name}, which is neither plain LoRA on a linear layer nor a weight of "
                f"{architecture.model_class.__name__}: it cannot be merged exactly."
            )
        self._trained[plain] = name

    def _check_pairs(self, architecture: Architecture) -> None:
        for stored, pair in self._low_rank.items():
            if stored not in self._base_names or pair.keys() != {"lora_A", "lora_B"}:
                raise UserError(f"The LoRA tensors of {stored} are incomplete or have no layer in the base model.")
            down, up = self._specs[pair["lora_A"]].shape, self._specs[pair["lora_B"]].shape
            shape = (up[0], down[1])
            if shape != architecture.shapes[stored] or up[1] != down[0]:
                raise UserError(
                    f"The LoRA tensors of {stored} make a {list(shape)} update, the layer is "
                    f"{list(architecture.shapes[stored])}: the base model is not the one that was trained."
                )
        for stored in self._low_rank.keys() & self._trained.keys():
            raise UserError(f"{stored} is both trained whole and adapted by LoRA: which of them is meant is not known.")


def check_mergeable(lora: Mapping[str, Any]) -> None:
    """Refuse adapters whose merge is another formula than plain or rank-stabilised LoRA's.

    Args:
        lora: The adapter's config as a dict (``LoraConfig.to_dict()``).

    Raises:
        UserError: DoRA, initialisations that change the base weights (PiSSA, OLoRA, LoftQ), per-layer alpha and any
            other setting that is not known to leave the merge as it is.
    """
    from peft import LoraConfig

    if str(getattr(lora.get("peft_type"), "value", lora.get("peft_type", "LORA"))).upper() != "LORA":
        raise UserError(f"Only LoRA adapters can be merged, this one is {lora['peft_type']}.")
    if lora.get("lora_alpha") is None:
        raise UserError("The checkpoint's LoRA settings lack lora_alpha, so the adapter's scale is not known.")
    if lora.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise UserError(
            f"init_lora_weights={lora['init_lora_weights']!r} changes the base weights at the start of training: the "
            f"adapter does not belong to the published base model. Export supports {list(_PLAIN_STARTS)}."
        )
    usual = LoraConfig().to_dict()
    for key, value in lora.items():
        if key not in _FREE and value and value != usual.get(key):
            raise UserError(
                f"LoRA setting {key}={value!r} is not supported by export: the merge is proved for plain LoRA and "
                "use_rslora only. Train without it, or merge with peft yourself."
            )
