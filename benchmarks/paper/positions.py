"""Position ablation in small (paper, Table 5): RoPE, PI, ABF and xPos-ABF extend one base to 8 times its length.

    python benchmarks/paper/texts.py TEXTS runs/paper
    python benchmarks/paper/positions.py --work runs/paper [--seeds 3] [--windows 8]

Trains what is not trained yet, measures what is not measured yet, and writes benchmarks/results/paper_positions.json.
Every arm of a seed sees the same tokens in the same order. Measured on documents that no run has seen, base included:
loss at the extended length, and the last tokens of each window from ever shorter contexts, for the claim that matters:
does the extended model with the whole window beat the base model, and itself, on the best truncation of it?
"""

import argparse
from pathlib import Path
from typing import Any

from arms import HERE, ROOT, Arm, release, sources, write_result
from measure import measure, tabulate

NATIVE, LENGTH = 512, 4096
ARMS = {"RoPE": "a_rope", "PI": "b_pi", "ABF": "c_abf", "xPos-ABF": "d_xpos_abf"}
REFERENCE = "ABF"  # the other arms are compared with it, seed by seed
STEPS, TOKENS_PER_STEP = 12, 8_192  # recipes/extend.yaml


def train_base(work: Path) -> tuple[Path, float]:
    """The folder of the small base model that the studies start from, and the seconds of its training."""
    base = Arm(
        work / "base_run",
        (HERE / "recipes" / "base.yaml", HERE / "recipes" / "common.yaml"),
        {"seed_everything": 20, "data.init_args.seed": 20, **sources(work)},
    )
    seconds = base.train()["seconds"]
    return release(base.checkpoint, work / "base"), seconds


def train(work: Path, seeds: int) -> tuple[dict[str, str], dict[str, float]]:
    """Model paths by name (``base``, ``ABF 1``, ...) and the seconds that each took."""
    folder, base_seconds = train_base(work)
    seconds = {"base": base_seconds}
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


def study(work: Path, seeds: int, windows: int) -> dict[str, Any]:
    """The study's numbers: trains and measures what is missing."""
    models, seconds = train(work, seeds)
    found = measure(work, models, windows, length=LENGTH, native=NATIVE, study="positions")
    arms = {"base": ["base"]} | {name: [f"{name} {seed}" for seed in range(1, seeds + 1)] for name in ARMS}
    return {
        "native_length": NATIVE,
        "length": LENGTH,
        "seeds": seeds,
        "tokens": STEPS * TOKENS_PER_STEP,
        "steps": STEPS,
        "training_seconds": seconds,
        "reference": REFERENCE,
        "arms": tabulate(found, arms, reference=REFERENCE),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=8, help="of each source")
    args = parser.parse_args()
    command = f"python benchmarks/paper/positions.py --seeds {args.seeds} --windows {args.windows}"
    write_result("paper_positions", command, study(args.work.resolve(), args.seeds, args.windows))


if __name__ == "__main__":
    main()
