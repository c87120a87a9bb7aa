"""Do packed documents really not see each other? Asked of the whole model, by changing one document at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from lit_long.attention.packed import attention_trial
from lit_long.attention.select import AttentionReport
from lit_long.errors import UserError

LENGTHS = (17, 1, 30, 16)  # documents of the probe

Forward = Callable[[dict[str, Any]], torch.Tensor]


@dataclass(frozen=True)
class LeakReport:
    """What changed that must not have; ``str`` says it in a line.

    Attributes:
        documents: documents in the probe.
        tokens: its tokens.
        leaks: what was found, empty if nothing.
        attention: what packed attention ran on in the probe; None for another attention.
    """

    documents: int
    tokens: int
    leaks: tuple[str, ...]
    attention: AttentionReport | None = None

    def __str__(self) -> str:
        what = f"{self.documents} packed documents of {self.tokens} tokens"
        if self.leaks:
            return f"{what}: {'; '.join(self.leaks)}"
        return f"{what}: states bit-equal and gradients exactly zero across documents, nothing seen ahead"


def check_leak(model: Any, forward: Forward | None = None) -> LeakReport:
    """Change each document of a packed probe, and look at the others: states and gradients.

    States of all other documents must be the same to the bit, the gradient of one document's states to all other
    documents' embeddings exactly zero, and states before a changed token the same to the bit.

    Args:
        model: a transformers causal LM, bare or in a peft wrapper. Its modes, gradients, random state and choice of
            kernels are left as they are. Call this under the autocast that it is trained in.
        forward: packed batch (``input_ids``, ``position_ids``, ``cu_seqlens``, ``max_seqlen``) -> last hidden states
            [1, T, D]; default: the model's decoder, told of documents by ``position_ids`` alone.

    Returns:
        The report; raise on ``leaks`` with :func:`require_no_leak`.

    Raises:
        UserError: the model's states are not finite, or its attention cannot run here.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    forward = forward if forward is not None else _decoder(inner)
    embedding = inner.get_input_embeddings()
    device, vocabulary = embedding.weight.device, embedding.weight.shape[0]
    tokens = sum(LENGTHS)
    cuts = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    ids = (torch.arange(tokens, device=device) * 97 + 3) % vocabulary
    batch = {
        "input_ids": ids[None],
        "position_ids": torch.cat([torch.arange(n, device=device) for n in LENGTHS])[None],
        "cu_seqlens": torch.tensor(cuts, dtype=torch.int32, device=device),
        "max_seqlen": max(LENGTHS),
    }
    modes = [(module, module.training) for module in inner.modules()]
    inner.eval()
    try:
        with attention_trial(inner) as attention:
            _require_finite(inner, forward, batch)
            leaks = [*_states(forward, batch, cuts, vocabulary), *_gradients(forward, embedding, batch, cuts)]
    finally:
        for module, training in modes:
            module.training = training
    return LeakReport(len(LENGTHS), tokens, tuple(leaks), attention)


def require_no_leak(report: LeakReport) -> None:
    """Raise if there is a leak.

    Raises:
        UserError: documents see each other, or a token sees those behind it.
    """
    if report.leaks:
        raise UserError(
            f"documents leak into each other: {report}. Training on packed documents would be wrong; switch the model "
            f"with use_packed_attention (model.attention: packed), or train on one document a sequence"
        )


def _decoder(inner: Any) -> Forward:
    def forward(batch: dict[str, Any]) -> torch.Tensor:
        output = inner.get_decoder()(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
        states: torch.Tensor = output.last_hidden_state
        return states

    return forward


@torch.no_grad()
def _require_finite(inner: Any, forward: Forward, batch: dict[str, Any]) -> None:
    if not bool(forward(batch).isfinite().all()):  # not a number equals nothing, so it would look like a leak
        raise UserError(
            f"the states of a {inner.config.model_type} model are not finite on a probe of {sum(LENGTHS)} "
            f"tokens, so nothing can be said about leaks; look at its weights and the precision"
        )


@torch.no_grad()
def _states(forward: Forward, batch: dict[str, Any], cuts: list[int], vocabulary: int) -> list[str]:
    before, leaks = forward(batch)[0], []
    for number, (start, stop) in enumerate(pairwise(cuts)):
        changed = batch["input_ids"].clone()
        changed[0, start:stop] = (changed[0, start:stop] + 1) % vocabulary
        after = forward(batch | {"input_ids": changed})[0]
        same = (before == after).all(-1)
        if bool(same[start:stop].any()):
            leaks.append(f"document {number} does not react to a change of its tokens")
        same[start:stop] = True
        if not bool(same.all()):
            leaks.append(f"a change of document {number} moves {int((~same).sum())} states of others")
    start, stop = cuts[2], cuts[3]
    ahead = batch["input_ids"].clone()
    ahead[0, stop - 1] = (ahead[0, stop - 1] + 1) % vocabulary
    if not torch.equal(forward(batch | {"input_ids": ahead})[0, start : stop - 1], before[start : stop - 1]):
        leaks.append("a token sees those behind it")
    return leaks


def _gradients(forward: Forward, embedding: torch.nn.Module, batch: dict[str, Any], cuts: list[int]) -> list[str]:
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    leaks = []
    hook = embedding.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            for number, (start, stop) in enumerate(pairwise(cuts)):
                # a forward pass each: selective activation checkpointing allows one backward pass through it
                total = forward(batch)[0, start:stop].float().square().sum()
                (gradient,) = torch.autograd.grad(total, seen[-1])
                gradient = gradient[0].clone()
                gradient[start:stop] = 0
                if bool((gradient != 0).any()):
                    leaks.append(
                        f"document {number} sends gradients to {int((gradient != 0).any(-1).sum())} others' tokens"
                    )
    finally:
        hook.remove()
    return leaks
