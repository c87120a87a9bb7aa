"""Positions that change during a run: one rope method for each stage of the data's schedule."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lit_long.attention import attention_trial
from lit_long.errors import UserError
from lit_long.model.build import ModelSpec
from lit_long.rope import RopeGeometry, RopeReport, RopeScaling, scale_rope, switch_rope, verify_rope


@dataclass(frozen=True)
class RopeStage:
    """The method and the context in tokens of the optimizer steps from ``first_step`` (0-based) to the next stage."""

    first_step: int
    scaling: RopeScaling
    context_length: int

    def facts(self) -> dict[str, Any]:
        """Method, options and context as a checkpoint states them."""
        return {
            "method": self.scaling.name,
            "options": self.scaling.options(),
            "context_length": self.context_length,
        }


class RopeStages:
    """The positions of a model over a run: what each stage asks for, and what is live.

    A model is built with the positions that the run ends with (the spec's) and switched to those of its first step.

    Args:
        spec: the model; with a schedule, its rope is the last of it.
        config: the untouched config.
        schedule: one method per stage of the data's schedule, or None for the spec's all along.

    Raises:
        UserError: the spec's rope does not fit the model.
    """

    def __init__(self, spec: ModelSpec, config: Any, schedule: Sequence[RopeScaling] | None) -> None:
        scale_rope(config, spec.rope, spec.context_length)
        self.native = RopeGeometry.from_config(config)
        for rope in schedule or [spec.rope]:
            if spec.attention != "packed" and bool((rope.decay(self.native, spec.context_length) != 1).any()):
                raise UserError(
                    f"rope method {rope.name!r} scales queries and keys inside lit-long's attention, and "
                    f"model.attention is {spec.attention!r}; set model.attention: packed"
                )
        self._config, self._schedule = config, schedule
        self._last = RopeStage(0, spec.rope, spec.context_length)
        self.stages, self.live = [self._last], self._last

    def plan(self, spans: Sequence[Any]) -> None:
        """Lay the methods out over a run and check them, before weights are read.

        The context of a stage is its sequence length, but at least the model's native one; that of the last stage is
        the spec's.

        Args:
            spans: stages of the data (``first_step``, ``sequence_length``).

        Raises:
            UserError: another number of stages than methods, a method that does not fit the model, or a model that
                cannot change its positions in the middle of a run.
        """
        self.stages = [self._last]
        if self._schedule is None:
            return
        if len(spans) != len(self._schedule):
            found = f"{len(spans)} stages" if len(spans) > 1 else "none (a plain sequence_length)"
            raise UserError(
                f"model.rope_schedule has {len(self._schedule)} methods, one for each stage, but the stages of the "
                f"data are {found}; give data.schedule as many stages, or model.rope instead of model.rope_schedule"
            )
        self.stages = [
            RopeStage(span.first_step, rope, max(self.native.native_length, span.sequence_length))
            for span, rope in zip(spans, self._schedule, strict=True)
        ]
        self.stages[-1] = replace(self._last, first_step=self.stages[-1].first_step)
        configs = []
        for number, stage in enumerate(self.stages, 1):
            try:
                configs.append(scale_rope(self._config, stage.scaling, stage.context_length))
            except UserError as error:
                raise UserError(f"model.rope_schedule, stage {number}: {error}") from None
        check_stages(configs)

    def at(self, step: int) -> RopeStage:
        """The stage of optimizer step ``step`` (0-based)."""
        return self.stages[max(0, bisect_right([stage.first_step for stage in self.stages], step) - 1)]

    def parameters_at(self, step: int) -> dict[str, Any]:
        """transformers' ``rope_parameters`` in optimizer step ``step`` (0-based)."""
        stage = self.at(step)
        return stage.scaling.rope_parameters(self.native, stage.context_length)

    def switch(self, model: Any, stage: RopeStage) -> None:
        """Make the positions of ``stage`` the live ones, proved."""
        if stage.facts() != self.live.facts():
            with attention_trial(model, "sdpa"):  # see build_model
                switch_rope(model, stage.scaling, self.native, stage.context_length)
        self.live = stage

    def prove(self, model: Any) -> RopeReport:
        """Make every switch of the run before it starts, and end at the last stage."""
        for stage in self.stages:
            self.switch(model, stage)
        with attention_trial(model, "sdpa"):
            return verify_rope(model, self.live.scaling, self.native, self.live.context_length)

    def of_checkpoint(self, saved: dict[str, Any], *, steps: int, fitting: bool) -> RopeStage:
        """The stage with the positions of a checkpoint, if they are this run's.

        Args:
            saved: ``rope`` of the checkpoint's record.
            steps: optimizer steps that it has behind it.
            fitting: training is to go on; else it is measured, and may be of any stage.

        Raises:
            UserError: the checkpoint was trained with other positions.
        """
        if self._schedule is None:
            choices = [self._last]
        elif fitting:  # of its last step, or of the next one if it was saved in the middle of that
            choices = [self.at(steps - 1), self.at(steps)]
        else:
            choices = [RopeStage(0, rope, saved["context_length"]) for rope in self._schedule]
        for stage in choices:
            if all(saved[key] == value for key, value in stage.facts().items()):
                return stage
        asked = choices[0].facts()
        key = next(key for key, value in asked.items() if saved[key] != value)
        raise UserError(
            f"the checkpoint was trained with rope {key} = {saved[key]!r}, this run asks for {asked[key]!r}. To start "
            f"a new stage from it, export it (lit-long export) and set model: to that folder"
        )


def check_stages(configs: Sequence[Any]) -> None:
    """Models built from these configs differ in their rotary modules alone, as :func:`lit_long.rope.switch_rope` needs.

    Built on the meta device, so that this costs no memory at any size.

    Raises:
        UserError: a number in another module depends on the rope (DeepSeek's attention scale under YaRN).
    """
    first: dict[str, Any] | None = None
    for config in configs:
        numbers = _numbers(config)
        if first is None:
            first = numbers
        for name in sorted(set(first) | set(numbers)):
            if first.get(name) != numbers.get(name):
                raise UserError(
                    f"model type {config.model_type!r}: {name} depends on the rope method ({first.get(name)} and "
                    f"{numbers.get(name)} in two stages of model.rope_schedule), so it cannot change in the middle of "
                    f"a run; train each stage as a run of its own, with lit-long export between them"
                )


def _numbers(config: Any) -> dict[str, Any]:
    """Every plain number that the modules of a model hold, by name, but those of its rotary modules."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        if "inv_freq" not in {**dict(module.named_buffers(recurse=False)), **vars(module)}
        for key, value in vars(module).items()
        if isinstance(value, int | float)
    }
