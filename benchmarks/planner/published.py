"""Plans beside published figures of other trainers (no run of ours): what the arithmetic says, and what they report.

    python benchmarks/planner/published.py --output benchmarks/results

Each row states the conditions that are known and those that the plan had to take for them. They are other programs: a
plan is of lit-long, so a difference is no error of either by itself; the reasons are in the last column.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from lit_long.data.schedule import LengthSchedule, Stage
from lit_long.flops import model_flops
from lit_long.hardware import find_device
from lit_long.model.levers import Levers
from lit_long.model.memory import ModelFacts
from lit_long.planner import Layout, Workload, make_plan
from lit_long.planner.workload import meta_model

# hidden, intermediate, layers, heads, key/value heads, vocabulary
MODELS = {
    "Llama-2-70B": (8192, 28672, 80, 64, 8, 32_000),
    "Llama-2-7B": (4096, 11008, 32, 32, 32, 32_000),
    "Llama-3.1-8B": (4096, 14336, 32, 32, 8, 128_256),
    "Qwen3-8B": (4096, 12288, 36, 32, 8, 151_936),
}
NAMES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip
XTUNER = "XTuner V0 docs (Llama2 7B and 70B speed benchmark): bf16, full fine-tune, ZeRO-3, Ulysses"
TITAN = "torchtitan docs (Llama 3.1 8B, long context): fp8, compile, 8 x H100 96 GB HBM2e 500 W"
TRL = "TRL PR #6846: ring, FSDP2, SDPA, bf16"
FP8 = "they compute in fp8 on slower cards (HBM2e, 500 W); the plan in bf16"
ULYSSES = "they exchange heads, the plan gathers keys and values; rows a step and levers are not published"
RING = "345-351 published; the plan's attention share (34 %, FlashAttention-2) is below what SDPA reaches there"
# model, device, devices, nodes, context, length, published tokens/s/GPU, published GB/GPU, source, why they differ
ROWS = [
    ("Llama-2-70B", "a100-80gb", 8, 4, 4, 32_768, 300.9, None, XTUNER, ULYSSES),
    ("Llama-2-70B", "a100-80gb", 8, 4, 8, 131_072, 144.7, None, XTUNER, ULYSSES),
    ("Llama-2-70B", "a100-80gb", 8, 4, 16, 262_144, 63.8, None, XTUNER, ULYSSES),
    ("Llama-2-7B", "a100-80gb", 8, 1, 1, 32_768, 2234, None, XTUNER, ULYSSES),
    ("Llama-2-7B", "a100-80gb", 8, 1, 8, 131_072, 949, None, XTUNER, ULYSSES),
    ("Llama-3.1-8B", "h100-80gb", 8, 1, 1, 32_768, 3890, None, TITAN, FP8),
    ("Llama-3.1-8B", "h100-80gb", 8, 1, 2, 65_536, 2540, None, TITAN, FP8),
    ("Llama-3.1-8B", "h100-80gb", 8, 1, 4, 131_072, 1071, None, TITAN, FP8),
    ("Llama-3.1-8B", "h100-80gb", 8, 1, 8, 262_144, 548, 84.0 * 1.0737, TITAN, FP8),
    ("Qwen3-8B", "h100-80gb", 8, 1, 8, 1_048_576, 348, 56.2, TRL, RING),
]


def workload(name: str, length: int, rows: int) -> Workload:
    """One row a rank at a time, float32 weights computed in bfloat16, levers free."""
    from transformers import AutoConfig

    kind = "qwen3" if name.startswith("Qwen3") else "llama"
    shape = dict(zip(NAMES, MODELS[name], strict=True)) | ({"head_dim": 128} if kind == "qwen3" else {})
    rope = {"rope_type": "default", "rope_theta": 5e5}
    config = AutoConfig.for_model(
        kind, **shape, rope_parameters=rope, max_position_embeddings=length, tie_word_embeddings=False
    )
    model = meta_model(config)
    spans = LengthSchedule((Stage(sequence_length=length),)).spans(steps=1, tokens_per_step=length * rows)
    return Workload(
        name=name, model=model, facts=ModelFacts.of(model), flops=model_flops(model), spans=spans,
        tokens_per_step=length * rows, precision="32-true", optimizer_states="float32", loss_chunk_size=None,
        levers=Levers(),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = []
    for name, device, devices, nodes, context, length, rate, memory, source, why in ROWS:
        layout = Layout(devices=devices, nodes=nodes, context=context, bfloat16=True)
        load = workload(name, length, layout.data)
        plan = make_plan(load, layout, find_device(device), levers=replace(load.levers))
        own = load.tokens_per_step / plan.stages[0].time.total / layout.ranks
        found.append(
            {
                "model": name, "layout": f"{layout.ranks} x {device}, context {context}", "length": length,
                "planned_tokens_per_second_per_device": own, "published_tokens_per_second_per_device": rate,
                "planned_gb": plan.highest.peak.total / 1e9, "published_gb": memory, "levers": str(plan.levers),
                "fits": plan.fits, "source": source, "why": why,
            }
        )  # fmt: skip
    head = [
        "model",
        "devices",
        "length",
        "planned tokens/s",
        "published",
        "ratio",
        "planned GB",
        "published GB",
        "levers",
    ]
    lines = [
        "# Plans beside published figures",
        "",
        "Tokens a second and a device. Planned: lit-long on the device of the data sheet, one row a rank at a time, "
        "one document a row; nothing here was run by us. Command: `python benchmarks/planner/published.py`.",
        "",
        f"| {' | '.join([*head, 'source', 'why they differ'])} |",
        "|---|---|" + "---:|" * 6 + "---|---|---|",
    ]
    for row in found:
        own, theirs = row["planned_tokens_per_second_per_device"], row["published_tokens_per_second_per_device"]
        cells = [
            row["model"],
            row["layout"],
            f"{row['length']:,}",
            f"{own:,.0f}",
            f"{theirs:,.4g}",
            f"{own / theirs:.2f}",
        ]
        cells += [f"{row['planned_gb']:.1f}" + ("" if row["fits"] else " (does not fit)")]
        cells += [
            "" if row["published_gb"] is None else f"{row['published_gb']:.1f}",
            row["levers"],
            row["source"],
            row["why"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    if args.output:
        (args.output / "planner_published.json").write_text(json.dumps(found, indent=1) + "\n")
        (args.output / "planner_published.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
