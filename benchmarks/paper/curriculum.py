"""Length curricula from scratch in small (paper, Tables 10 and 11, Fig. 6): short first, long from 20, 40, 80 % on.

    python benchmarks/paper/curriculum.py --work runs/paper [--windows 8]

A model of a million parameters at 2,048 tokens throughout, at 256 throughout, and with the switch after 20, 40 and 80 %
of the steps: the same tokens in the same number of steps of 8,192, one learning-rate schedule, RoPE base 500,000 in all
(neither is reported by the paper). FLOPs by the paper's formula, and by the exact count of the documents that were
there; what attention costs beside the matrices depends on length over width, so savings differ from the paper's 7B.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from arms import HERE, ROOT, Arm, sources, write_result
from measure import measure, tabulate

from lit_long.data.schedule import LengthSchedule, Stage
from lit_long.flops import megatron_run_flops

SHORT, LENGTH = 256, 2048
STEPS, TOKENS_PER_STEP = 100, 8_192  # recipes/scratch.yaml
LAYERS, HIDDEN = 4, 128
SWITCHES = {
    "2,048 always": 0.0,
    "switch at 20 %": 0.2,
    "switch at 40 %": 0.4,
    "switch at 80 %": 0.8,
    "256 always": 1.0,
}


def stages(switch: float) -> list[dict[str, Any]]:
    """Stages of the data's schedule; a step holds the same tokens in each."""
    short = {"sequence_length": SHORT, "micro_batch": LENGTH // SHORT}
    long = {"sequence_length": LENGTH, "micro_batch": 1}
    if switch in (0.0, 1.0):
        return [short if switch else long]
    return [short | {"until": switch}, long]


def formula_flops(switch: float) -> float:
    """FLOPs of the run by the paper's formula (``lit_long.flops.megatron_flops``)."""
    parts = [Stage(sequence_length=s["sequence_length"], until=s.get("until")) for s in stages(switch)]
    spans = LengthSchedule(tuple(parts)).spans(steps=STEPS, tokens_per_step=TOKENS_PER_STEP)
    return megatron_run_flops(spans, layers=LAYERS, hidden=HIDDEN, tokens_per_step=TOKENS_PER_STEP)


def _metrics(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def study(work: Path, windows: int) -> dict[str, Any]:
    """The study's numbers: trains and measures what is missing."""
    models, about = {}, {}
    for name, switch in SWITCHES.items():
        label = "base" if switch == 0 else f"switch_{round(100 * switch)}"
        arm = Arm(
            work / f"curriculum_{label}",
            (HERE / "recipes" / "scratch.yaml", HERE / "recipes" / "common.yaml"),
            {
                "seed_everything": 1,
                "data.init_args.seed": 1,
                "data.init_args.schedule": {"stages": stages(switch)},
                **sources(work),
            },
        )
        seconds = arm.train()["seconds"]
        rows = _metrics(arm.folder)
        about[name] = {
            "switch_step": round(switch * STEPS),
            "formula_flops": formula_flops(switch),
            "exact_flops": rows[-1]["flops"],
            "seconds": seconds,
            "train_loss": [round(row["loss"], 4) for row in rows],
        }
        models[label] = arm.checkpoint
    found = measure(work, models, windows, length=LENGTH, native=SHORT, study="curriculum")
    arms = tabulate(found, {name: [label] for name, label in zip(SWITCHES, models, strict=True)})
    return {
        "short": SHORT,
        "length": LENGTH,
        "steps": STEPS,
        "tokens": STEPS * TOKENS_PER_STEP,
        "runs": about,
        "arms": arms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--windows", type=int, default=8, help="of each source")
    args = parser.parse_args()
    command = f"python benchmarks/paper/curriculum.py --windows {args.windows}"
    write_result("paper_curriculum", command, study(args.work.resolve(), args.windows))


if __name__ == "__main__":
    main()
