"""On one GPU: a 3B step at 32K, the longest 8B sequence that fits, attention kernels, and the step beside peers.

    python benchmarks/training/gpu.py [--parts a b c d] [--output benchmarks/results]

- a: Llama-3.2-3B shape, all weights trained, 32,768 tokens: tokens/s, MFU against 989.5 TFLOP/s, memory. Goal: 55 %.
- b: Llama-3-8B shape, adapters and all weights: the longest sequence that trains two steps. Goal: 500,000 tokens.
- c: attention, forward and backward, as a share of the matrix-product rate measured in the same process.
- d: the step at a 1B shape beside transformers' Trainer and TRL (if installed).

Weights are random, tokens too (neither changes speed or memory); lengths of packed documents are drawn once. Each
measurement is a process of its own; what is done is kept in ``training_gpu.json``, so a run that was cut off goes on.
``--tiny`` tries the script anywhere, with shapes that mean nothing.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu_measures import MEASURES, SHAPES
from gpu_report import report
from measured import machine, run_alone, versions, write_results

PACKAGES = ("lit-long", "torch", "transformers", "lightning", "flash-attn", "liger-kernel", "torchao", "trl")
MEMORY = ("out of memory", "OutOfMemoryError", "can't allocate memory", "Cannot allocate", "exit code -9")
LEAST, MOST, GRAIN = 32_768, 1 << 20, 32_768  # tokens, of part b


def device():
    """Name of the device that is measured."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


class Kept:
    """Measurements by name; each is made once and written at once."""

    def __init__(self, folder, data, limit):
        self.folder, self.data, self.limit = folder, data, limit

    def measure(self, part, name, kind, job):
        """Its result, now or from before; a failure is kept as ``error``."""
        found = self.data["parts"].setdefault(part, {})
        if name not in found:
            with tempfile.TemporaryDirectory() as work:
                file = Path(work) / "job.json"
                file.write_text(json.dumps(job | {"work": work}))
                arguments = ["--measure", kind, "--job", file]
                found[name] = run_alone(__file__, arguments, seconds=self.limit) | {"job": job}
            print(part, name, json.dumps(found[name]), file=sys.stderr)
            write_results(self.folder, "training_gpu", self.data, report(self.data))
        return found[name]


def part_a(kept, tiny):
    shape, length = ("tiny", 256) if tiny else ("3b", 32_768)
    for name, levers in (
        ("chosen levers", {}),
        ("selective", {"checkpointing": "selective"}),
        ("compiled", {"compile": True}),
    ):
        kept.measure("a", name, "step", {"shape": shape, "length": length, "levers": levers, "steps": 3 if tiny else 6})


def part_b(kept, tiny):
    shape, least, most, grain = ("tiny", 64, 64, 64) if tiny else ("8b", LEAST, MOST, GRAIN)
    for kind in ("lora", "full"):

        def fits(length, kind=kind):
            # all weights with AdamW's moments beside them do not fit one GPU: those are kept on the host
            job = {"shape": shape, "length": length, "levers": {}, "steps": 2, "lora": kind == "lora"}
            job["states"] = "float32" if kind == "lora" else "host"
            error = kept.measure("b", f"{kind} {length}", "step", job).get("error")
            if error is not None and not any(word in error for word in MEMORY):
                raise SystemExit(f"{kind}, {length:,} tokens: {error}. Not a matter of memory: mend it, take the "
                                 f"measurement out of training_gpu.json, and run this again")  # fmt: skip
            return error is None

        low, high = 0, least
        while high <= most and fits(high):
            low, high = high, high * 2
        while low and high <= 2 * most and high - low > grain:
            middle = (low + high) // 2 // grain * grain
            low, high = (middle, high) if fits(middle) else (low, middle)


def part_c(kept, tiny):
    lengths = (128,) if tiny else (8_192, 16_384, 32_768, 65_536, 131_072, 262_144)
    for length in lengths:
        for packed in (False, True):
            job = {"length": length, "packed": packed, "heads": 4 if tiny else 32, "kv_heads": 2 if tiny else 8}
            job |= {"head_dim": 16 if tiny else 128, "matrix": 64 if tiny else 8192}
            kept.measure("c", f"{length} {'packed' if packed else 'single'}", "kernels", job)


def part_d(kept, tiny):
    shape, lengths = ("tiny", (128,)) if tiny else ("1b", (8_192, 32_768))
    for length in lengths:
        for way in ("lit-long", "transformers Trainer", "TRL SFTTrainer"):
            job = {"shape": shape, "length": length, "levers": {}, "steps": 3, "way": way}
            kept.measure("d", f"{way} {length}", "step" if way == "lit-long" else "peer", job)


PARTS = {"a": part_a, "b": part_b, "c": part_c, "d": part_d}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="shapes that run anywhere and mean nothing")
    parser.add_argument("--empty", action="store_true", help="write the tables without a measurement")
    parser.add_argument("--limit", type=float, default=570, help="seconds that one measurement may take")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of training_gpu.json, .md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        args.result.write_text(json.dumps(MEASURES[args.measure](json.loads(args.job.read_text()))))
        return
    file = args.output / "training_gpu.json"
    data = json.loads(file.read_text()) if file.exists() else {"parts": {}}
    if data["parts"] and (data["device"], data["tiny"]) != (device(), args.tiny) and not args.empty:
        raise SystemExit(
            f"{file} holds measurements of {data['device']}{' with tiny shapes' if data['tiny'] else ''}; give another "
            f"--output"
        )
    data |= {"machine": machine(), "versions": versions(PACKAGES), "shapes": SHAPES, "tiny": args.tiny}
    if args.empty:
        data |= {"device": None, "parts": {}}
        write_results(args.output, "training_gpu", data, report(data))
        return
    data["device"] = device()
    if data["device"] == "CPU" and not args.tiny:
        raise SystemExit("no CUDA device is here; try the script with --tiny")
    kept = Kept(args.output, data, args.limit)
    for part in args.parts:
        PARTS[part](kept, args.tiny)
    write_results(args.output, "training_gpu", data, report(data))
    print(report(data))


if __name__ == "__main__":
    main()
