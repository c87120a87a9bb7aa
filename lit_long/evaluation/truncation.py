"""Is a long context worth having? The same target tokens, predicted from ever longer contexts.

A flat loss curve does not show that a model uses its context: on SmolLM2 with a raised RoPE base the loss is flat to
16K, and no better there than with 1K of context. So the last T tokens of every window are predicted again from
restarted windows that end at the same token and hold only the last c tokens. The claim to test is that the full window
beats the best truncation, because truncating is what a user without a long-context model would do. A second control
keeps the length but takes the far prefix from another window: a model that reads it loses what it gained.

Every target sees c - T + 1 to c tokens, so a truncated input is judged at its last T positions, its best ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_long.evaluation.intervals import Estimate, cluster_estimate
from lit_long.evaluation.token_nll import position_nll
from lit_long.evaluation.windows import Windows

_LEAST_TARGETS = 64


@dataclass(frozen=True)
class ContextPlan:
    """Which tokens are predicted from which contexts."""

    target_tokens: int
    """T: the last tokens of each window, which are predicted every time."""
    contexts: tuple[int, ...]
    """Input lengths c, rising; the last one is the full window."""
    kept: int | None
    """Last tokens of the input that the shuffled-prefix control leaves alone; ``None`` where it cannot be run."""

    @property
    def extra_tokens(self) -> int:
        """Input tokens per window that the control costs on top of the full windows."""
        return sum(self.contexts[:-1]) + (self.contexts[-1] if self.kept else 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class ContextGain:
    """Loss of the same target tokens by context, in nats per token."""

    plan: ContextPlan
    loss: tuple[Estimate, ...]
    """One per context of the plan."""
    gain: tuple[Estimate, ...]
    """Loss at the shortest context minus loss at each, paired: above 0, the longer context helps."""
    best_truncation: int
    """The context shorter than the window with the lowest mean loss."""
    full_minus_best: Estimate
    """Loss with the full window minus loss with the best truncation, paired: below 0, the full window beats it."""
    shuffled_loss: Estimate | None
    """Loss at full length with a far prefix from another window."""
    prefix_gain: Estimate | None
    """Loss with the foreign prefix minus loss with the true one, paired: above 0, the far prefix is used."""
    foreign_documents: bool
    """Whether every foreign prefix comes from another document (else some come from the same one)."""
    window_loss: Tensor
    """float64 [N, contexts]: each window's mean over its targets, for pairing across models."""


def plan_contexts(windows: Windows, native_length: int) -> ContextPlan:
    """Targets T = half the native length, at least 64; contexts half the native length, native, twice it, ..., full."""
    S = windows.length
    native = min(native_length, S)
    targets = min(max(_LEAST_TARGETS, native // 2), S // 2)
    contexts = {max(targets, native // 2), S}
    context = native
    while context < S:
        contexts.add(max(context, targets))
        context *= 2
    can_shuffle = native < S and windows.ids.shape[0] > 1
    return ContextPlan(targets, tuple(sorted(contexts)), max(native, targets) if can_shuffle else None)


def context_gain(
    model: nn.Module,
    windows: Windows,
    *,
    native_length: int,
    full_nll: Tensor | None = None,
    batch_size: int | None = None,
    logit_chunk: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> ContextGain:
    """Predict the same last tokens of each window from every context of :func:`plan_contexts`.

    Args:
        model: A Hugging Face causal language model.
        windows: From :func:`lit_long.evaluation.take_windows`.
        native_length: Context length of the original model.
        full_nll: float32 [N, S] from :func:`lit_long.evaluation.position_nll` of the same windows, if already measured.
        batch_size: Windows per forward; by default as many as make 16,384 tokens at each context.
        logit_chunk: Tokens whose logits exist at one time.
        progress: Called with the number of input tokens just finished.

    Raises:
        UserError: See :func:`lit_long.evaluation.position_nll`.
    """
    plan = plan_contexts(windows, native_length)

    def nll(ids: Tensor) -> Tensor:
        return position_nll(model, ids, batch_size=batch_size, logit_chunk=logit_chunk, progress=progress)

    full = nll(windows.ids) if full_nll is None else full_nll
    return summarise_contexts(target_nll(nll, windows, plan, full), windows, plan)


def target_nll(nll: Callable[[Tensor], Tensor], windows: Windows, plan: ContextPlan, full: Tensor) -> dict[str, Tensor]:
    """Raw losses of the targets, float32 [N, T] each, under ``context_<c>`` and, where the plan has it, ``shuffled``.

    Args:
        nll: Measures ids [N, c + 1] to losses [N, c].
        windows: The windows.
        plan: Their contexts.
        full: float32 [N, S], the losses of the whole windows.
    """
    T = plan.target_tokens
    raw = {f"context_{c}": nll(_last(windows, c))[:, -T:] for c in plan.contexts[:-1]}
    raw[f"context_{windows.length}"] = full[:, -T:]
    if plan.kept is not None:
        raw["shuffled"] = nll(_foreign_prefix(windows, plan.kept))[:, -T:]
    # Copies, because safetensors refuses tensors that share memory with the losses they are cut from.
    return {key: value.clone(memory_format=torch.contiguous_format) for key, value in raw.items()}


def summarise_contexts(raw: dict[str, Tensor], windows: Windows, plan: ContextPlan) -> ContextGain:
    """Turn the raw losses of :func:`target_nll` into paired estimates."""
    loss_NC = torch.stack([raw[f"context_{c}"].double().mean(dim=1) for c in plan.contexts], dim=1)
    best = int(loss_NC[:, :-1].mean(dim=0).argmin())
    full_N, clusters = loss_NC[:, -1], windows.clusters
    shuffled = raw["shuffled"].double().mean(dim=1) if "shuffled" in raw else None
    return ContextGain(
        plan=plan,
        loss=tuple(cluster_estimate(column, clusters) for column in loss_NC.T),
        gain=tuple(cluster_estimate(loss_NC[:, 0] - column, clusters) for column in loss_NC.T),
        best_truncation=plan.contexts[best],
        full_minus_best=cluster_estimate(full_N - loss_NC[:, best], clusters),
        shuffled_loss=None if shuffled is None else cluster_estimate(shuffled, clusters),
        prefix_gain=None if shuffled is None else cluster_estimate(shuffled - full_N, clusters),
        foreign_documents=bool((windows.documents != windows.documents[_donors(windows)]).all()),
        window_loss=loss_NC,
    )


def _last(windows: Windows, context: int) -> Tensor:
    """int64 [N, context + 1]: restarted windows that end at the same token, with the same first token if one is set."""
    ids = windows.ids[:, -(context + 1) :].clone()
    if windows.first_token is not None:
        ids[:, 0] = windows.first_token
    return ids


def _foreign_prefix(windows: Windows, kept: int) -> Tensor:
    """int64 [N, S + 1]: the last ``kept`` input tokens and the final target stay, the rest is another window's."""
    cut = windows.length - kept
    return torch.cat([windows.ids[_donors(windows), :cut], windows.ids[:, cut:]], dim=1)


def _donors(windows: Windows) -> Tensor:
    """int64 [N]: for each window the one that gives it its prefix, from another document wherever that is possible.

    Windows sorted by document are rotated by the largest number of windows that one document has; no document then
    meets itself unless it holds more than half of all windows.
    """
    N = windows.documents.shape[0]
    order = torch.argsort(windows.documents, stable=True)
    most = int(torch.bincount(windows.documents).max())
    donors = torch.empty(N, dtype=torch.int64)
    donors[order] = order.roll(-max(1, min(most, N // 2)))
    return donors
