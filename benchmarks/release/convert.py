"""Checkpoint to safetensors: memory and speed of lit-long against Lightning's and PyTorch's consolidation and plain cp.

    python benchmarks/release/convert.py [--gigabytes 3] [--rounds 3] [--output benchmarks/results]

A synthetic sharded checkpoint is written first: weights in bfloat16 of the size given, in tensors as a decoder has
them (the largest an embedding of 262 MB), and twice that in float32 optimizer states. Each way runs in a process of its
own, in rounds of changing order; ``base`` only imports what the others import and tells the memory that is not theirs.
``cp`` copies the bytes of the weights, as a bound. What is timed is conversion alone: no proof. Disk: seven times the
size given.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import environment_line, machine, run_alone, spread, versions, warn_if_busy, write_results

PACKAGES = ("lit-long", "torch", "lightning", "safetensors", "huggingface_hub")
EMBEDDING, LAYER = (32_000, 4096), (4096, 4096)


def make(folder, gigabytes):
    """Write the checkpoint; returns bytes of weights and of everything."""
    import torch
    import torch.distributed.checkpoint as dcp

    rows = max(1, round((gigabytes * 1e9 - 2 * EMBEDDING[0] * EMBEDDING[1]) / (2 * LAYER[0] * LAYER[1])))
    shapes = {"embed": EMBEDDING} | {f"layers.{number}": LAYER for number in range(rows)}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator)
        state[f"state_dict.model.{name}"] = weight.to(torch.bfloat16)
        state[f"optimizer_0.state.{name}.exp_avg"] = torch.zeros(shape)
    dcp.save(state, checkpoint_id=folder / "checkpoint", no_dist=True)
    torch.save({"global_step": 1}, folder / "checkpoint" / "meta.pt")
    weights = sum(value.nbytes for name, value in state.items() if name.startswith("state_dict"))
    (folder / "plain").write_bytes(os.urandom(1 << 20) * (weights >> 20))
    return {"weights": weights, "checkpoint": sum(f.stat().st_size for f in (folder / "checkpoint").iterdir())}


def lit_long(folder, out):
    """Weights alone, one stored piece at a time."""
    from lit_long.model.shard_reader import ShardReader
    from lit_long.model.sharded_checkpoint import weight_names
    from lit_long_hub.convert import plan_weights, release_dtype, write_weights
    from lit_long_hub.weights import ShardedWeights

    out.mkdir()
    reader = ShardReader(folder / "checkpoint")
    source = ShardedWeights(reader, weight_names(folder / "checkpoint", reader))
    specs = source.specs()
    names = {name: name for name in specs}
    plan = plan_weights(specs, names, dtype=release_dtype(specs, None), max_shard_size="500MB")
    write_weights(plan, source, out, progress=lambda *told: None)


def lightning(folder, out):
    """What ``python -m lightning.pytorch.utilities.consolidate_checkpoint`` does."""
    import torch
    from lightning.fabric.utilities.load import _load_distributed_checkpoint

    torch.save(_load_distributed_checkpoint(folder / "checkpoint"), out)


def torch_save(folder, out):
    """PyTorch's own conversion to one file."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(folder / "checkpoint", out)


def copy(folder, out):
    """The same bytes, copied; no memory, no work."""
    shutil.copyfile(folder / "plain", out)


def base(folder, out):
    """Imports alone."""


WAYS = {"lit-long": lit_long, "Lightning consolidation": lightning, "dcp_to_torch_save": torch_save, "cp": copy}
WAYS["base"] = base


def one(way, folder, result):
    """One conversion in this process, flushed to disk before the clock stops."""
    import lightning.fabric.utilities.load  # noqa: F401
    import torch.distributed.checkpoint  # noqa: F401

    import lit_long_hub.convert  # noqa: F401

    out = Path(folder) / "out"
    began = time.perf_counter()
    WAYS[way](Path(folder), out)
    os.sync()
    seconds = time.perf_counter() - began
    time.sleep(0.3 if way == "base" else 0)  # long enough for the memory to be sampled
    Path(result).write_text(json.dumps({"seconds": seconds}))


def clear(folder):
    """Remove what a way wrote, and have the system forget what it read: every way begins with the disk."""
    out = folder / "out"
    shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    os.sync()
    for path in (folder / "plain", *(folder / "checkpoint").iterdir()):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(data):
    """The table."""
    sizes, rows = data["bytes"], []
    for way, runs in data["runs"].items():
        if way == "base":
            continue
        failed = [run["error"] for run in runs if "error" in run]
        if failed:
            rows.append(f"| {way} | failed: {failed[0]} | | |")
            continue
        seconds = spread([run["seconds"] for run in runs])
        memory = max(run["memory"]["own"] for run in runs) - data["base_mib"]
        speed = sizes["weights"] / 1e6 / seconds["median"]
        rows.append(
            f"| {way} | {memory:,.0f} | {seconds['median']:.1f} ({seconds['min']:.1f} to {seconds['max']:.1f}) "
            f"| {speed:,.0f} |"
        )
    return "\n".join(
        [
            "# Checkpoint to weights: memory and speed",
            "",
            f"`{data['command']}`",
            "",
            f"A sharded checkpoint of {sizes['checkpoint'] / 1e9:.2f} GB: {sizes['weights'] / 1e9:.2f} GB of bfloat16 "
            "weights (largest tensor 262 MB) and float32 optimizer states. Memory is the process's own peak above what "
            f"imports take ({data['base_mib']:,.0f} MiB), sampled 50 times a second. MB/s counts the weights' bytes, "
            "from files that are in no cache of the system until the new ones are on disk. lit-long writes safetensors "
            "shards of 500 MB, the consolidations one pickle with the optimizer in it (they have no option to leave it "
            "out), cp the weights' bytes alone: a bound, not a peer.",
            "",
            "| way | memory, MiB | seconds (least to most) | MB/s |",
            "|---|---|---|---|",
            *rows,
            "",
            environment_line(data["machine"], data["versions"]),
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="of bfloat16 weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        one(args.way, args.folder, args.result)
        return
    facts = machine()
    warn_if_busy(facts)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        needed = args.gigabytes * 7e9
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"{needed / 1e9:.0f} GB of disk are needed in the folder of temporary files")
        sizes = make(folder, args.gigabytes)
        clear(folder)
        runs = {way: [] for way in WAYS}
        for number in range(args.rounds):
            for way in list(WAYS)[number % len(WAYS) :] + list(WAYS)[: number % len(WAYS)]:
                found = run_alone(__file__, ["--way", way, "--folder", folder], every=0.02)
                print(way, json.dumps(found), file=sys.stderr)
                runs[way].append(found)
                clear(folder)
    base_mib = max(run["memory"]["own"] for run in runs["base"])
    data = {
        "command": f"python benchmarks/release/convert.py --gigabytes {args.gigabytes:g} --rounds {args.rounds}",
        "bytes": sizes,
        "base_mib": base_mib,
        "runs": runs,
        "machine": facts,
        "versions": versions(PACKAGES),
    }
    write_results(args.output, "release_convert", data, report(data))


if __name__ == "__main__":
    main()
