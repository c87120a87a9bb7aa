"""Does extension pay with more training? ABF on ten times the position study's tokens, and the honest control.

    python benchmarks/paper/longer.py --work runs/paper [--windows 8]

The base of the position study is continued with ABF at 8 times its length, and as a control at its own length and base
on the same number of tokens of the same mixture: what further training gives without any longer context. The claim is
that the extended model with the whole window beats the control, and itself, on the best truncation of it.
"""

import argparse
from pathlib import Path
from typing import Any

from arms import HERE, ROOT, Arm, sources, write_result
from measure import measure, tabulate
from positions import LENGTH, NATIVE, TOKENS_PER_STEP, train_base

STEPS = 120
ARMS: dict[str, dict[str, Any]] = {
    "control": {
        "model.context_length": NATIVE,
        "data.init_args.sequence_length": NATIVE,
        "data.init_args.micro_batch": 8,
    },
    "ABF": {},
}
OVERLAYS = {"control": "a_rope", "ABF": "c_abf"}


def study(work: Path, windows: int) -> dict[str, Any]:
    """The study's numbers: trains and measures what is missing."""
    folder, _ = train_base(work)
    models, seconds = {}, {}
    for name, settings in ARMS.items():
        arm = Arm(
            work / f"longer_{name.lower()}",
            (
                HERE / "recipes" / "extend.yaml",
                HERE / "recipes" / "common.yaml",
                ROOT / "recipes" / "ablations" / "positions" / f"{OVERLAYS[name]}.yaml",
            ),
            {
                "model.model": str(folder),
                "seed_everything": 1,
                "data.init_args.seed": 1,
                "trainer.max_steps": STEPS,
                **settings,
                **sources(work),
            },
        )
        seconds[name] = arm.train()["seconds"]
        models["base" if name == "control" else name] = arm.checkpoint
    models["before"] = str(folder)
    found = measure(work, models, windows, length=LENGTH, native=NATIVE, study="longer")
    arms = tabulate(found, {"base": ["base"], "ABF": ["ABF"], "before": ["before"]})
    return {
        "native_length": NATIVE,
        "length": LENGTH,
        "steps": STEPS,
        "tokens": STEPS * TOKENS_PER_STEP,
        "training_seconds": seconds,
        "arms": {"control": arms["base"], "ABF": arms["ABF"], "before": arms["before"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--windows", type=int, default=8, help="of each source")
    args = parser.parse_args()
    command = f"python benchmarks/paper/longer.py --windows {args.windows}"
    write_result("paper_longer", command, study(args.work.resolve(), args.windows))


if __name__ == "__main__":
    main()
