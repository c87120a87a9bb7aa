"""Position ablation in small (paper, Table 5): RoPE, PI, ABF and xPos-ABF extend one base to 8 times its length.

    python benchmarks/paper/texts.py TEXTS runs/paper
    python benchmarks/paper/positions.py --work runs/paper [--seeds 3] [--windows 8]

Trains what is not trained yet, measures what is not measured yet, and writes benchmarks/results/paper_positions.json.
Every arm of a seed sees the same tokens in the same order. Measured on documents that no run has seen, base included:
loss at the extended length, and the last tokens of each window from ever shorter contexts, for the claim that matters:
does the extended model with the whole window beat the base model, and itself, on the best truncation of it?
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from arms import HERE, ROOT, Arm, release, sources

from lit_long.data import TokenCorpus
from lit_long.evaluation import take_windows
from lit_long.evaluation.battery import Evaluation, NamedModel, evaluate_models
from lit_long.evaluation.intervals import Estimate, cluster_estimate
from lit_long.model.inference import load_for_inference

NATIVE, LENGTH = 512, 4096
ARMS = {"RoPE": "a_rope", "PI": "b_pi", "ABF": "c_abf", "xPos-ABF": "d_xpos_abf"}
RESULT = ROOT / "benchmarks" / "results" / "paper_positions.json"


def train(work: Path, seeds: int) -> tuple[dict[str, str], dict[str, float]]:
    """Model paths by name (``base``, ``ABF 1``, ...) and the seconds that each took."""
    base = Arm(
        work / "base_run",
        (HERE / "recipes" / "base.yaml", HERE / "recipes" / "common.yaml"),
        {"seed_everything": 20, "data.init_args.seed": 20, **sources(work)},
    )
    seconds = {"base": base.train()["seconds"]}
    folder = release(base.checkpoint, work / "base")
    models = {"base": str(folder)}
    for seed in range(1, seeds + 1):
        for name, overlay in ARMS.items():
            arm = Arm(
                work / f"{overlay}_{seed}",
                (
                    HERE / "recipes" / "extend.yaml",
                    HERE / "recipes" / "common.yaml",
                    ROOT / "recipes" / "ablations" / "positions" / f"{overlay}.yaml",
                ),
                {"model.model": str(folder), "seed_everything": seed, "data.init_args.seed": seed, **sources(work)},
            )
            seconds[f"{name} {seed}"] = arm.train()["seconds"]
            models[f"{name} {seed}"] = arm.checkpoint
    return models, seconds


class _Lines:
    """Says which model is being measured."""

    def start(self, name: str, tokens: int) -> None:
        print(f"measuring {name}: {tokens:,} tokens", flush=True)

    def advance(self, tokens: int) -> None:
        pass

    def note(self, message: str) -> None:
        pass


def measure(work: Path, models: dict[str, str], windows: int) -> dict[str, Evaluation]:
    """All models on the same held-out windows of each source; raw losses are kept and used again."""
    named = [NamedModel(name.replace(" ", "_"), path) for name, path in models.items()]
    found = {}
    for source in ("books", "manuals", "code"):
        cut = take_windows(TokenCorpus(str(work / source), "held_out"), LENGTH, windows, seed=0)
        found[source] = evaluate_models(
            named,
            cut,
            load=load_for_inference,
            raw_folder=work / "raw" / source,
            progress=_Lines(),
            native_length=NATIVE,
        )
    return found


def tabulate(found: dict[str, Evaluation], seeds: int) -> dict[str, Any]:
    """Means over seeds with 95 % intervals over documents, per source and over all, and the spread between seeds."""
    rows: dict[str, Any] = {}
    for name in ("base", *ARMS):
        members = ["base"] if name == "base" else [f"{name}_{seed}" for seed in range(1, seeds + 1)]
        rows[name] = {source: _row(evaluation, members) for source, evaluation in found.items()}
        rows[name]["all"] = _pooled(found, members)
    return rows


def _models(evaluation: Evaluation, members: list[str]) -> list[Any]:
    return [model for model in evaluation.models if model.name in members]


def _window_values(evaluation: Evaluation, members: list[str]) -> dict[str, torch.Tensor]:
    """Per window, float64 [seeds, N]: losses, and differences to truncations that were the best on these windows."""
    base = _models(evaluation, ["base"])[0]
    found: dict[str, list[torch.Tensor]] = {}
    for model in _models(evaluation, members):
        nll = model.position.nll.double()
        gain, own = model.context, model.context.window_loss
        truncated = base.context.window_loss[:, :-1]
        values = {
            "loss": nll.mean(dim=1),
            "loss_within_native": nll[:, :NATIVE].mean(dim=1),
            "loss_beyond_native": nll[:, NATIVE:].mean(dim=1),
            "minus_base": nll.mean(dim=1) - base.position.nll.double().mean(dim=1),
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
        summary[key] = _plain(cluster_estimate(value.mean(dim=0), clusters))
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
    own = torch.stack([one.context.window_loss.mean(dim=0) for one in _models(evaluation, members)]).mean(dim=0)
    summary["contexts"] = {str(c): float(v) for c, v in zip(model.context.plan.contexts, own, strict=True)}
    return summary


def _pooled(found: dict[str, Evaluation], members: list[str]) -> dict[str, Any]:
    """All windows of all sources together, documents as clusters."""
    each = [_window_values(evaluation, members) for evaluation in found.values()]
    clusters, offset = [], 0
    for evaluation in found.values():
        clusters.append(evaluation.windows.documents + offset)
        offset += int(evaluation.windows.documents.max()) + 1
    values = {key: torch.cat([one[key] for one in each], dim=1) for key in each[0]}
    return _summary(values, torch.cat(clusters))


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "documents": estimate.clusters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=8, help="of each source")
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    work = args.work.resolve()
    models, seconds = train(work, args.seeds)
    found = measure(work, models, args.windows)
    result = {
        "command": f"python benchmarks/paper/positions.py --seeds {args.seeds} --windows {args.windows}",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "native_length": NATIVE,
        "length": LENGTH,
        "seeds": args.seeds,
        "training_seconds": seconds,
        "arms": tabulate(found, args.seeds),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {args.output.name}")


if __name__ == "__main__":
    main()
