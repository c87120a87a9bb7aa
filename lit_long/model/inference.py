"""Load a model to measure it: a Hugging Face folder, a Hub id, or a training checkpoint of lit-long."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lit_long.attention import use_packed_attention
from lit_long.errors import UserError
from lit_long.model.adapter_release import adapter_file, load_adapter
from lit_long.model.build import ModelSpec, build_model, load_pretrained
from lit_long.model.sharded_checkpoint import is_sharded_checkpoint, read_whole
from lit_long.model.variant import Variant, parse_variant
from lit_long.repository import model_at
from lit_long.rope import XPosABF
from lit_long.rope.xpos import register_xpos, xpos_scale_base

CHECKPOINT_FORMAT = 1  # of the 'lit_long' entry (lit_long/record.py writes it)


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM in eval mode, float32, with what is known about it.

    Attributes:
        model: the transformers model.
        config: its config.
        native_length: context length before scaling, where known.
        source: plain values for reports.
    """

    model: Any
    config: Any
    native_length: int | None
    source: dict[str, Any]


def load_for_inference(path: str) -> LoadedModel:
    """Load the model at ``path``.

    Args:
        path: a Hugging Face folder (also of an adapter), a Hub id (``hf://org/name@revision`` too), or a ``.ckpt`` of
            ``lit-long fit``; of the first two also with other positions, ``MODEL#METHOD:KEY=VALUE,...``
            (:mod:`lit_long.model.variant`).

    Raises:
        UserError: nothing loadable there, a checkpoint of something else, or positions that the model cannot have.
    """
    variant = parse_variant(path)
    if variant.method is not None:
        return _rescaled(variant)
    return _from_checkpoint(path) if path.endswith(".ckpt") else _from_pretrained(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A lit-long training checkpoint, memory-mapped and without running code from it.

    Raises:
        UserError: no such file, not a checkpoint, not one of lit-long, or one of a newer lit-long.
    """
    file = Path(path)
    sharded = is_sharded_checkpoint(file)
    if not file.is_file() and not sharded:
        what = "is a directory, and no complete sharded checkpoint" if file.is_dir() else "does not exist"
        raise UserError(f"{path}: {what}; give a checkpoint written by lit-long fit")
    try:
        state = read_whole(file) if sharded else torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(state, dict) or "lit_long" not in state:
        raise UserError(f"{path}: a checkpoint, but not one of lit-long (it has no 'lit_long' record)")
    if state["lit_long"]["format"] > CHECKPOINT_FORMAT:
        raise UserError(
            f"{path}: format {state['lit_long']['format']} is newer than this lit-long ({CHECKPOINT_FORMAT}); update it"
        )
    return state


def _from_checkpoint(path: str) -> LoadedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    state = read_checkpoint(path)
    record = state["lit_long"]
    register_xpos()
    options = dict(record["config"])
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    tensors = {k.removeprefix("model."): v for k, v in state["state_dict"].items() if k.startswith("model.")}
    if record.get("lora") is None:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        # a second name of a tied tensor may be absent
        own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        missing = [name for name in missing if name in own]
        if missing or unexpected:
            raise UserError(f"{path}: tensors do not fit the model: missing {missing[:3]}, unexpected {unexpected[:3]}")
    else:
        model = _with_adapters(record, config, tensors, path)
    if xpos_scale_base(config) is not None:  # its positions are in our attention
        use_packed_attention(model)
    source = {k: record.get(k) for k in ("base_model", "rope", "training")}
    return LoadedModel(model.eval(), config, record["rope"]["native_length"], source)


def _with_adapters(record: dict[str, Any], config: Any, tensors: dict[str, torch.Tensor], path: str) -> Any:
    from peft import LoraConfig, get_peft_model

    base = load_pretrained(record["base_model"], revision=record.get("base_revision"), config=config)
    known = LoraConfig.__dataclass_fields__
    model = get_peft_model(base, LoraConfig(**{k: v for k, v in record["lora"].items() if k in known}))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if "lora_" in name]  # the rest is the base model's
    if missing or unexpected:
        raise UserError(
            f"{path}: adapter tensors do not fit the base model {record['base_model']!r}: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}"
        )
    return model.merge_and_unload()


def _rescaled(variant: Variant) -> LoadedModel:
    name, revision = model_at(variant.path)
    if adapter_file(name, revision=revision) is not None:
        raise UserError(
            f"{variant.path} is an adapter, whose positions are those that it was trained with; give its base model, "
            f"or the merged one"
        )
    method, length = variant.scaling()
    attention: Literal["packed", "sdpa"] = "packed" if method.name == XPosABF.name else "sdpa"
    spec = ModelSpec(
        model=name, model_config=None, revision=revision, rope=method, context_length=length, attention=attention,
        lora=None,
    )  # fmt: skip
    built = build_model(spec)
    built.model.config.use_cache = True  # for first sentences, which are decoded
    source = {"model": variant.path, "rope": {"method": method.name, **method.options()}, "context_length": length}
    return LoadedModel(built.model.eval(), built.model.config, built.native.native_length, source)


def _from_pretrained(path: str) -> LoadedModel:
    from transformers.utils.hub import cached_file

    name, revision = model_at(path)
    model = load_adapter(name, revision=revision)
    if model is None:
        model = load_pretrained(name, revision=revision)
    native = getattr(model.config, "max_position_embeddings", None)
    record = cached_file(
        name,
        "lit_long.json",
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if record is not None:  # a release of ours knows the length before scaling
        native = json.loads(Path(record).read_text())["rope"]["native_length"]
    return LoadedModel(model.eval(), model.config, native, {"model": path})
