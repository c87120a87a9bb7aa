"""Everything that can be proved about a run before its first step, as one table; the run then stops."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F

from lit_long.attention import AttentionReport, attention_trial
from lit_long.attention.leak import check_leak, require_no_leak
from lit_long.errors import UserError
from lit_long.loss import linear_cross_entropy
from lit_long.model.forward import hidden_states, in_forward, output_transform, unwrapped
from lit_long.model.output_layer import check_output_layer
from lit_long.parallel.parity import check_parity

PARITY_TOKENS = 256


class ChecksDone(Exception):  # noqa: N818 - no error
    """Every check has been made."""


@dataclass(frozen=True)
class Check:
    """One line of the table: ``passed`` is None for what is only stated."""

    name: str
    passed: bool | None
    detail: str


class Preflight(Callback):
    """Checks a :class:`lit_long.LongContextModule` with its data, strategy and precision as they are; stops the run.

    Attributes:
        checks: what was found, in order.
        first: whether this is the process that speaks for all.
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.first = True
        self._attention: AttentionReport | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make all checks, also behind one that fails.

        Raises:
            ChecksDone: always, at the end.
        """
        module: Any = pl_module
        self.first = trainer.is_global_zero
        self._check("positions", lambda: str(module.positions.prove(module.model)))
        self._check("output layer", lambda: f"logits within {check_output_layer(module.model):.1e} of the model's own")
        self._check("loss", partial(_loss_parity, module, trainer))
        if module.spec.attention == "packed":
            self._check("document leak", partial(self._no_leak, module.model, trainer))
            self._state("attention", str(self._attention or "not run"))
        else:
            self._state("document leak", "not asked: attention is transformers' own (model.attention: sdpa)")
        for reason in module.built.reasons:
            self._state("levers", reason)
        self._parity(module, trainer)
        data = getattr(trainer, "datamodule", None)
        if hasattr(data, "report"):
            self._check("data", partial(_data, data, trainer))
        raise ChecksDone

    def _check(self, name: str, look: Callable[[], str]) -> None:
        try:
            self.checks.append(Check(name, True, look()))
        except UserError as error:
            self.checks.append(Check(name, False, str(error)))

    def _parity(self, module: Any, trainer: Trainer) -> None:
        context = int(getattr(trainer.strategy, "context_parallel_size", 1))
        mesh = (trainer.world_size // context, context)
        if mesh == (1, 1) or not trainer.is_global_zero:
            self._state("parity", "one process: nothing to compare")
            return
        levers = replace(module.built.levers, offload=False, compile=False)
        levers = replace(levers, tile_size=min(levers.tile_size, 32))

        def compare() -> str:
            report = check_parity(unwrapped(module.model).config, mesh, lora=module.spec.lora, levers=levers)
            if not report.passed:
                raise UserError(str(report))
            return str(report)

        self._check("parity", compare)

    def _no_leak(self, model: Any, trainer: Trainer) -> str:
        with trainer.precision_plugin.forward_context():  # the kernels of training, in its dtype
            report = check_leak(model, lambda batch: in_forward(model, lambda: hidden_states(model, batch)))
        self._attention = report.attention
        require_no_leak(report)
        return str(report)

    def _state(self, name: str, detail: str) -> None:
        self.checks.append(Check(name, None, detail))


@torch.no_grad()
def _loss_parity(module: Any, trainer: Trainer) -> str:
    """The loss on the beginning of the first real row, against plain cross-entropy in float64 on whole logits."""
    batch = next(iter(trainer.datamodule.train_dataloader()))  # type: ignore[attr-defined]
    ids = batch["input_ids"][:1, :PARITY_TOKENS].to(module.device)
    targets = batch["target_ids"][:1, :PARITY_TOKENS].to(module.device)
    positions = torch.arange(ids.shape[1], device=module.device)[None]
    inner = unwrapped(module.model)
    head, transform = inner.get_output_embeddings(), output_transform(inner.config)

    def both() -> tuple[float, float, float]:
        states = hidden_states(module.model, {"input_ids": ids, "position_ids": positions}).float()
        weight = head.weight.float()
        backend = module.loss_backend
        ours = linear_cross_entropy(states, weight, targets, bias=head.bias, transform=transform, backend=backend)
        bias = None if head.bias is None else head.bias.double()
        logits = F.linear(states.double(), weight.double(), bias) * transform.scale
        if transform.softcap is not None:
            logits = transform.softcap * torch.tanh(logits / transform.softcap)
        plain = F.cross_entropy(logits[0], targets[0], reduction="sum")
        return float(ours.loss), float(plain), float(ours.weight)

    with attention_trial(inner, "sdpa"):  # a kernel that was pinned for the dtype of training may refuse this one
        ours, plain, count = in_forward(module.model, both)
    off = abs(ours - plain) / max(abs(plain), 1e-9)
    if not off < 1e-5:
        raise UserError(f"the loss of {count:.0f} targets is {ours:.6f}, in float64 on whole logits {plain:.6f}")
    return (
        f"{ours / max(count, 1):.4f} on the first {count:.0f} targets (loss_backend: {module.loss_backend}); float64 "
        f"on whole logits differs by {off:.1e}"
    )


def _data(data: Any, trainer: Trainer) -> str:
    spans = "; ".join(
        f"steps {span.first_step + 1:,} to {span.stop_step:,}: {span.sequence_length:,} tokens a row, "
        f"{data.accumulation(span.first_step)} micro-batches of {span.micro_batch} a device"
        for span in data.spans
    )
    before, after = data.imbalance(steps=min(20, trainer.max_steps))
    masked = "apart" if data.document_mask else "in one sequence see each other (data.document_mask: false)"
    return (
        f"{trainer.max_steps:,} steps of {data.tokens_per_step:,} tokens "
        f"({trainer.max_steps * data.tokens_per_step:,} in all); {spans}; packing {data.packing}, documents {masked}; "
        f"predicted time over an even one {after:.2f} (undealt {before:.2f})"
    )
