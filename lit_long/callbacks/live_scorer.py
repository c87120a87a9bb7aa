"""Scores tokens with the model in training, as the run's strategy holds it."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lit_long.evaluation.live import Ranks, TokenScores, score_tokens

_LINE_SECONDS = 10.0


class LiveScorer:
    """Called with ids [N, S + 1] it gives their losses [N, S]; every rank calls with the same ids."""

    def __init__(self, trainer: Trainer, pl_module: LightningModule, logit_chunk: int) -> None:
        strategy: Any = trainer.strategy
        kwargs = getattr(strategy, "distributed_sampler_kwargs", None) or {}
        self._model, self._chunk = pl_module.model, logit_chunk
        self._print, self._line, self._done = pl_module.print, time.monotonic(), 0
        self._ranks = Ranks(
            rank=int(kwargs.get("rank", 0)),
            replicas=int(kwargs.get("num_replicas", 1)),
            to_device=lambda batch: strategy.batch_to_device(batch, pl_module.device),
            add=lambda values: strategy.reduce(values, reduce_op="sum"),
            precision=trainer.precision_plugin.val_step_context,
            device=pl_module.device,
        )

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Losses of every target."""
        return self.scores(ids, None).nll

    def scores(self, ids: torch.Tensor, wanted: torch.Tensor | None) -> TokenScores:
        """Losses and hits of the targets that are wanted, bool [N, S]."""
        return score_tokens(
            self._model,
            ids,
            ranks=self._ranks,
            wanted=wanted,
            logit_chunk=self._chunk,
            progress=lambda tokens: self._tell(tokens, ids),
        )

    def _tell(self, tokens: int, ids: torch.Tensor) -> None:
        self._done += tokens
        if time.monotonic() - self._line > _LINE_SECONDS:
            self._line = time.monotonic()
            self._print(f"evaluation: {self._done:,} tokens read, windows of {ids.shape[1] - 1:,}")
