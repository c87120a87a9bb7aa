"""What all studies measure: loss at full length and what the context is worth, on windows no run has seen.

Every model reads the same windows. Numbers are means over seeds with 95 % intervals over documents; between seeds, the
standard deviation. For the claim that matters the last tokens of each window are predicted again from ever shorter
contexts: does the model with the whole window beat the base model, and itself, on the best truncation of it?
"""

from pathlib import Path
from typing import Any

import torch

from lit_long.data import TokenCorpus
from lit_long.evaluation import take_windows
from lit_long.evaluation.battery import Evaluation, NamedModel, evaluate_models
from lit_long.evaluation.intervals import Estimate, cluster_estimate
from lit_long.model.inference import load_for_inference

SOURCES = ("books", "manuals", "code")


class Lines:
    """Says which model is being measured."""

    def start(self, name: str, tokens: int) -> None:
        print(f"measuring {name}: {tokens:,} tokens", flush=True)

    def advance(self, tokens: int) -> None:
        pass

    def note(self, message: str) -> None:
        pass


def measure(
    work: Path,
    models: dict[str, str],
    windows: int,
    *,
    length: int,
    native: int,
    study: str,
    contexts: bool = True,
    device: str = "cpu",
) -> dict[str, Evaluation]:
    """All models on the same held-out windows of each source; raw losses are kept in ``raw/STUDY`` and used again.

    Without ``contexts`` the last tokens are not predicted again from truncated contexts.
    """
    named = [NamedModel(name.replace(" ", "_"), path) for name, path in models.items()]
    found = {}
    for source in SOURCES:
        cut = take_windows(TokenCorpus(str(work / source), "held_out"), length, windows, seed=0)
        found[source] = evaluate_models(
            named,
            cut,
            load=load_for_inference,
            raw_folder=work / "raw" / study / source,
            progress=Lines(),
            native_length=native,
            context_control=contexts,
            device=device,
            allow_beyond=True,  # of the base, and of all models where they extrapolate
        )
    return found


def tabulate(
    found: dict[str, Evaluation], arms: dict[str, list[str]], *, reference: str | None = None
) -> dict[str, Any]:
    """A row an arm, by source and over all. ``arms``: name -> its models, one a seed; one arm is ``base``.

    With ``reference``, an arm of as many seeds, the others also have ``minus_reference``: loss on the same tokens, seed
    by seed, minus that arm's.
    """
    rows: dict[str, Any] = {}
    for name, models in arms.items():
        members = [model.replace(" ", "_") for model in models]
        rows[name] = {source: _row(evaluation, members) for source, evaluation in found.items()}
        rows[name]["all"] = _pooled(found, members)
        if reference is not None and name not in (reference, "base"):
            others = [model.replace(" ", "_") for model in arms[reference]]
            rows[name]["all"]["minus_reference"] = _difference(found, members, others)
    return rows


def _models(evaluation: Evaluation, members: list[str]) -> list[Any]:
    return [model for model in evaluation.models if model.name in members]


def _window_values(evaluation: Evaluation, members: list[str]) -> dict[str, torch.Tensor]:
    """Per window, float64 [seeds, N]: losses, and differences to truncations that were the best on these windows."""
    base, native = _models(evaluation, ["base"])[0], evaluation.native_length
    found: dict[str, list[torch.Tensor]] = {}
    for model in _models(evaluation, members):
        nll = model.position.nll.double()
        values = {
            "loss": nll.mean(dim=1),
            "loss_within_native": nll[:, :native].mean(dim=1),
            "loss_beyond_native": nll[:, native:].mean(dim=1),
            "minus_base": nll.mean(dim=1) - base.position.nll.double().mean(dim=1),
        }
        if model.context is not None:
            gain, own = model.context, model.context.window_loss
            truncated = base.context.window_loss[:, :-1]
            values |= {
                "full": own[:, -1],
                "full_minus_own_best": own[:, -1] - own[:, gain.plan.contexts.index(gain.best_truncation)],
                "full_minus_base_best": own[:, -1] - truncated[:, int(truncated.mean(dim=0).argmin())],
            }
        for key, value in values.items():
            found.setdefault(key, []).append(value)
    return {key: torch.stack(value) for key, value in found.items()}


def _summary(values: dict[str, torch.Tensor], clusters: torch.Tensor) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for key, value in values.items():
        summary[key] = plain(cluster_estimate(value.mean(dim=0), clusters))
        if len(value) > 1:
            summary[key]["seed_sd"] = float(value.mean(dim=1).std())
    return summary


def _row(evaluation: Evaluation, members: list[str]) -> dict[str, Any]:
    model = _models(evaluation, members)[0]
    summary = _summary(_window_values(evaluation, members), evaluation.windows.clusters)
    curves = [one.position.curve for one in _models(evaluation, members)]
    mean = torch.tensor([curve.loss for curve in curves]).mean(dim=0).tolist()
    summary["curve"] = {"position": list(model.position.curve.positions), "loss": mean}
    summary["windows"], summary["documents"] = len(evaluation.windows.ids), evaluation.windows.used_documents
    if model.context is None:
        return summary
    own = torch.stack([one.context.window_loss.mean(dim=0) for one in _models(evaluation, members)]).mean(dim=0)
    summary["contexts"] = {str(c): float(v) for c, v in zip(model.context.plan.contexts, own, strict=True)}
    return summary


def _pooled(found: dict[str, Evaluation], members: list[str]) -> dict[str, Any]:
    """All windows of all sources together, documents as clusters."""
    each = [_window_values(evaluation, members) for evaluation in found.values()]
    values = {key: torch.cat([one[key] for one in each], dim=1) for key in each[0]}
    return _summary(values, _clusters(found))


def _clusters(found: dict[str, Evaluation]) -> torch.Tensor:
    """Number of the document of each window, all sources one after the other."""
    clusters, offset = [], 0
    for evaluation in found.values():
        clusters.append(evaluation.windows.documents + offset)
        offset += int(evaluation.windows.documents.max()) + 1
    return torch.cat(clusters)


def _difference(found: dict[str, Evaluation], members: list[str], others: list[str]) -> dict[str, Any]:
    """Loss of ``members`` minus that of ``others``, window by window and seed by seed."""
    if len(members) != len(others):
        raise ValueError(f"{members} and {others} have different seeds")
    ours, theirs = (
        torch.cat([_window_values(evaluation, names)["loss"] for evaluation in found.values()], dim=1)
        for names in (members, others)
    )
    summary = plain(cluster_estimate((ours - theirs).mean(dim=0), _clusters(found)))
    if len(members) > 1:
        summary["seed_sd"] = float((ours - theirs).mean(dim=1).std())
    return summary


def plain(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "documents": estimate.clusters}
