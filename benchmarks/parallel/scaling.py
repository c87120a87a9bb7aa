"""Communication against compute, layer by layer, for the runs that lit-long is made for: computed, not measured.

    python benchmarks/parallel/scaling.py [--efficiency 0.5] [--output benchmarks/results]

The formulas are ``lit_long/parallel/communication.py``; docs/parallel.md says what follows.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import write_results

from lit_long.parallel import communication as c

RUNS = [
    ("70B, 32,768 tokens, 64 GPUs", c.LayerShape(parameters=856e6, heads=64, kv_heads=8, head_dim=128), 32_768, 64,
     (1, 2, 4, 8, 16)),
    ("8B, 1,048,576 tokens, 64 GPUs", c.LayerShape(parameters=218e6, heads=32, kv_heads=8, head_dim=128), 1_048_576, 64,
     (8, 16, 32, 64)),
]  # fmt: skip


def rows(layer, tokens, gpus, contexts, efficiency):
    for context in contexts:
        compute = c.compute_seconds(layer, tokens, context, efficiency=efficiency)
        gather, heads = c.gather_bytes(layer, tokens, context), c.alltoall_bytes(layer, tokens, context)
        parameters = c.parameter_bytes(layer, gpus)
        yield {
            "context": context,
            "compute_ms": compute * 1e3,
            "parameters_gb": parameters / 1e9,
            "parameters_share": c.seconds(parameters, gpus) / compute,
            "gather_gb": gather / 1e9,
            "gather_share": c.seconds(gather, context) / compute,
            "alltoall_gb": None if heads is None else heads / 1e9,
            "alltoall_share": None if heads is None else c.seconds(heads, context) / compute,
        }


def number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def report(data):
    lines = [
        "# Communication against compute",
        "",
        f"**Computed, not measured**: `python benchmarks/parallel/scaling.py --efficiency {data['efficiency']}`. One "
        "decoder layer, one micro-batch of one row, one document, bfloat16, gradients reduced in float32. H100: 989 "
        f"TFLOP/s, of which {data['efficiency']:.0%} are reached; 450 GB/s into a GPU in a node (NVLink), 50 GB/s "
        "between nodes. A share is time on the wire by time of compute: below 1 it can be hidden behind it.",
        "",
    ]
    for run in data["runs"]:
        lines += [
            f"## {run['name']}", "",
            "| context ranks | compute, ms | parameters and gradients, GB | share | keys and values (gather), GB | "
            "share | heads (all-to-all), GB | share |",
            "|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]  # fmt: skip
        lines += [
            f"| {row['context']} | {number(row['compute_ms'], 1)} | {number(row['parameters_gb'])} | "
            f"{number(row['parameters_share'])} | {number(row['gather_gb'])} | {number(row['gather_share'], 3)} | "
            f"{number(row['alltoall_gb'])} | {number(row['alltoall_share'], 3)} |"
            for row in run["rows"]
        ]
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--efficiency", type=float, default=0.5, help="share of the peak that compute reaches")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    data = {
        "efficiency": args.efficiency,
        "runs": [
            {"name": name, "rows": list(rows(layer, tokens, gpus, contexts, args.efficiency))}
            for name, layer, tokens, gpus, contexts in RUNS
        ],
    }
    write_results(args.output, "parallel_scaling", data, report(data))
    print(report(data))


if __name__ == "__main__":
    main()
