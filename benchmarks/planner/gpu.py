"""Predicted beside measured memory and step time on one GPU, eight configurations.

    python benchmarks/planner/gpu.py --gpu h100-80gb --output benchmarks/results

Each is a process of its own (the ``step`` of ``benchmarks/training/gpu.py``: real training steps through Lightning,
random weights and tokens, packed documents). Without a GPU the measured cells stay empty; ``--tiny`` tries the script
anywhere, writes nothing, and its times mean nothing.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from gpu_measures import LLAMA, SHAPES, document_lengths
from measured import run_alone, versions

TRAINING = Path(__file__).parents[1] / "training"

SELECTIVE, FULL = {"checkpointing": "selective"}, {"checkpointing": "full", "offload": False, "tile_size": 0}
# shape, length, levers, adapters
CASES = [
    ("1b", 8_192, {"checkpointing": "none", "tile_size": 0}, False),
    ("1b", 32_768, SELECTIVE | {"offload": False, "tile_size": 0}, False),
    ("1b", 32_768, FULL, False),
    ("1b", 131_072, {}, False),
    ("3b", 16_384, SELECTIVE | {"offload": False, "tile_size": 0}, False),
    ("3b", 32_768, {}, False),
    ("8b", 32_768, {}, True),
    ("8b", 131_072, {}, True),
]
PACKAGES = ("lit-long", "torch", "transformers", "lightning", "flash-attn")


def predicted(shape: str, length: int, levers: dict, lora: bool, gpu: str) -> dict:
    """What the plan says of a case."""
    from transformers import AutoConfig

    from lit_long.data.schedule import LengthSchedule, Stage
    from lit_long.flops import model_flops
    from lit_long.hardware import find_device
    from lit_long.model import Levers, LoraSettings
    from lit_long.model.memory import ModelFacts
    from lit_long.planner import Layout, Workload, make_plan
    from lit_long.planner.workload import meta_model

    options = LLAMA | SHAPES[shape] | {"max_position_embeddings": length}
    rope = {"rope_type": "default", "rope_theta": options.pop("rope_theta")}
    config = AutoConfig.for_model(options.pop("model_type"), rope_parameters=rope, **options)
    model = meta_model(config, LoraSettings() if lora else None)
    lengths = document_lengths(length)
    work = Workload(
        name=shape, model=model, facts=ModelFacts.of(model), flops=model_flops(model),
        spans=LengthSchedule((Stage(sequence_length=length),)).spans(steps=1, tokens_per_step=length),
        tokens_per_step=length, precision="bf16-mixed", optimizer_states="float32", loss_chunk_size=None,
        levers=Levers(**levers),
    )  # fmt: skip
    alike = round(sum(n * n for n in lengths) / length)  # documents of this length have as many pairs
    plan = make_plan(work, Layout(devices=1, sharded=False), find_device(gpu), document_length=alike)
    return {
        "gib": plan.highest.peak.total / 2**30, "seconds": plan.stages[0].time.total, "levers": str(plan.levers),
        "fits": plan.fits,
    }  # fmt: skip


def measured(shape: str, length: int, levers: dict, lora: bool) -> dict:
    """What a few real steps took."""
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "job.json"
        job = {"shape": shape, "length": length, "levers": levers, "steps": 5, "lora": lora, "work": work}
        file.write_text(json.dumps(job))
        found = run_alone(str(TRAINING / "gpu.py"), ["--measure", "step", "--job", file], seconds=540)
    if "error" in found:
        return {"error": found["error"]}
    return {"gib": found["peak_memory_gib"], "seconds": length / found["tokens_per_second"], "levers": found["levers"]}


def report(rows: list[dict], head: str) -> str:
    """The table; a cell without a measurement is empty."""
    lines = [
        "# Planned and measured on one GPU", "", head, "",
        "| shape | length | trained | levers | GiB planned | measured | error | s a step planned | measured | error |",
        "|---|---:|---|---|" + "---:|" * 6,
    ]  # fmt: skip
    for row in rows:
        plan, real = row["predicted"], row["measured"]
        cells = [row["shape"], f"{row['length']:,}", "adapters" if row["lora"] else "all", plan["levers"]]
        for what, form in (("gib", ".1f"), ("seconds", ".3g")):
            cells.append(format(plan[what], form))
            known = what in real
            cells += (
                [format(real[what], form), f"{plan[what] / real[what] - 1:+.0%}"]
                if known
                else [real.get("error", ""), ""]
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="h100-80gb", help="name in lit_long/hardware.yaml")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    cases = [("tiny", 256, {"checkpointing": "none"}, False)] if args.tiny else CASES
    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else "No GPU: not measured yet"
    used = ", ".join(f"{package} {version}" for package, version in versions(PACKAGES).items())
    head = f"{name}. {used}. Command: `python benchmarks/planner/gpu.py --gpu {args.gpu}`."
    rows = []
    for shape, length, levers, lora in cases:
        real = measured(shape, length, levers, lora) if gpu or args.tiny else {}
        rows.append(
            {
                "shape": shape, "length": length, "lora": lora, "measured": real,
                "predicted": predicted(shape, length, levers, lora, args.gpu),
            }
        )  # fmt: skip
        print(json.dumps(rows[-1]), file=sys.stderr)
        if args.output and not args.tiny:  # what is done is kept
            (args.output / "planner_gpu.json").write_text(json.dumps({"device": name, "rows": rows}, indent=1) + "\n")
            (args.output / "planner_gpu.md").write_text(report(rows, head))
    print(report(rows, head))


if __name__ == "__main__":
    main()
