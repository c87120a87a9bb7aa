"""What a recipe asks of the hardware: the model's shape from the meta device, its stages, its settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lit_long.data.schedule import LengthSchedule, StageSpan
from lit_long.errors import UserError
from lit_long.flops import ModelFlops, model_flops
from lit_long.model.build import native_config
from lit_long.model.levers import Levers
from lit_long.model.lora import add_lora
from lit_long.model.memory import PRECISIONS, ModelFacts


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A recipe without its hardware.

    Attributes:
        name: of the model.
        model: on the meta device: shapes, no numbers.
        facts: what memory depends on.
        flops: what a token and a pair cost.
        spans: stages of sequence length; the last one's ``stop_step`` is the end of the run.
        tokens_per_step: over all devices.
        precision: the trainer's.
        optimizer_states: as in :class:`lit_long.optim.OptimizerSettings`.
        loss_chunk_size: tokens whose logits exist at once; None: the loss's own choice.
        levers: as asked.
    """

    name: str
    model: Any
    facts: ModelFacts
    flops: ModelFlops
    spans: tuple[StageSpan, ...]
    tokens_per_step: int
    precision: str
    optimizer_states: str
    loss_chunk_size: int | None
    levers: Levers

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.spans[-1].stop_step

    @property
    def longest(self) -> StageSpan:
        """The stage that needs most memory."""
        return max(self.spans, key=lambda span: span.sequence_length * span.micro_batch)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The shape of a recipe's data, for which no corpus is needed.

    Attributes:
        schedule: stages of sequence length.
        tokens_per_step: over all devices and micro-batches.
        micro_batch: rows that a device takes at once.
    """

    schedule: LengthSchedule
    tokens_per_step: int
    micro_batch: int


def workload_of(module: Any, rows: Rows, trainer: Mapping[str, Any]) -> Workload:
    """The workload of a recipe.

    Args:
        module: a :class:`lit_long.LongContextModule`, not set up.
        rows: of its data.
        trainer: the recipe's ``trainer``, plain values.

    Raises:
        UserError: no number of steps, a precision that lit-long does not train in, attention whose FLOPs are not known.
    """
    steps = int(trainer.get("max_steps") or -1)
    if steps < 1:
        raise UserError("trainer.max_steps is not set; a plan needs the number of optimizer steps")
    precision = str(trainer.get("precision") or "32-true")
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision is {precision!r}; plans know {', '.join(sorted(PRECISIONS))}")
    spec = module.spec
    model = meta_model(native_config(spec), spec.lora)
    return Workload(
        name=spec.model or str(spec.model_config["model_type"]),
        model=model,
        facts=ModelFacts.of(model),
        flops=model_flops(model),
        spans=rows.schedule.spans(steps=steps, tokens_per_step=rows.tokens_per_step, micro_batch=rows.micro_batch),
        tokens_per_step=rows.tokens_per_step,
        precision=precision,
        optimizer_states=module.optimizer_settings.states,
        loss_chunk_size=module.loss_chunk_size,
        levers=spec.levers,
    )


def meta_model(config: Any, lora: Any = None) -> Any:
    """A causal LM of ``config`` on the meta device, with adapters if asked for."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if lora is None:
        return model
    with torch.random.fork_rng(devices=[]):  # first values are drawn for nobody
        return add_lora(model, lora).to("meta")
