"""Start-up of a run over 10^12 tokens, fresh and resumed far in: seconds and memory, by packing.

    python benchmarks/data/startup.py [--tokens 1e12] [--mean 2500] [--index FOLDER] [--output benchmarks/results]

The corpus is an index without text (``starts.npy``, lengths from a lognormal distribution): what a plan looks at. Each
measurement is a process of its own. ``fresh`` builds what is built once (the index of long and of short documents);
``resumed`` finds it there and starts at step 100,000 with the anchors that a checkpoint holds.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CHUNK = 1 << 22
STEP, STEPS = 100_000, 200_000


class Index:
    """A corpus of which only the index exists."""

    def __init__(self, folder):
        self.path, self.fingerprint = Path(folder), Path(folder).name
        self.starts = np.load(self.path / "starts.npy", mmap_mode="r")
        self.sources, self.source_names = None, ["all"]


def make_index(folder, tokens, mean):
    sigma = 1.5
    mu = np.log(mean) - sigma**2 / 2
    count = int(tokens / mean)
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.lib.format.open_memmap(folder / "starts.npy", "w+", np.int64, (count + 1,))
    random, position = np.random.default_rng(0), 0
    for first in range(0, count, CHUNK):
        stop = min(first + CHUNK, count)
        lengths = np.maximum(2, random.lognormal(mu, sigma, stop - first)).astype(np.int64)
        starts[first + 1 : stop + 1] = position + np.cumsum(lengths)
        position = int(starts[stop])
    starts.flush()


def memory():
    """Peak resident memory, and what of the present is the process's own (mapped files can be given back), in MiB."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {k: round(int(fields[k].split()[0]) / 1024) for k in ("VmHWM", "RssAnon")}


def measure(folder, packing, kind):
    """One process: build the plan, reach the step, give one step; prints JSON."""
    from lit_long.data import LengthSchedule, LongUpsample, Mixture, MixtureSource, Stage
    from lit_long.data.mixture import build_parts
    from lit_long.data.mixture_report import mixture_report
    from lit_long.data.plan import StepPlan

    before = memory()
    began = time.perf_counter()
    mixture = Mixture(
        sources={"all": MixtureSource(corpus=str(folder))}, long_upsample=LongUpsample(over=32_768, share=0.5)
    )
    parts = build_parts(mixture, lambda path, split: Index(path))
    spans = LengthSchedule((Stage(sequence_length=32_768),)).spans(steps=STEPS, tokens_per_step=1 << 22)
    plan = StepPlan(parts, spans=spans, tokens_per_step=1 << 22, packing=packing)
    if kind == "resumed":
        plan.restore(json.loads((folder / f"anchors-{packing}.json").read_text()))
    rows = plan.step(STEP if kind == "resumed" else 0)
    ready = time.perf_counter() - began
    mixture_report(plan, STEPS)
    reported = time.perf_counter() - began - ready
    began = time.perf_counter()
    for step in range(1, 11):
        plan.step((STEP if kind == "resumed" else 0) + step)
    each = (time.perf_counter() - began) / 10
    result = {
        "packing": packing, "kind": kind, "tokens": sum(p.documents.tokens for p in parts),
        "documents": sum(len(p.documents) for p in parts), "seconds_to_first_step": round(ready, 3),
        "seconds_report": round(reported, 3), "milliseconds_per_step": round(each * 1000, 2), "rows": len(rows),
        "memory_before": before, "memory": memory(),
    }  # fmt: skip
    print(json.dumps(result))


def make_anchors(folder, packing):
    """Anchors of step 100,000 without packing the windows before: any window is as good for this measurement."""
    from lit_long.data import LengthSchedule, LongUpsample, Mixture, MixtureSource, Stage
    from lit_long.data.mixture import build_parts
    from lit_long.data.packing.windows import Anchor
    from lit_long.data.plan import StepPlan

    mixture = Mixture(
        sources={"all": MixtureSource(corpus=str(folder))}, long_upsample=LongUpsample(over=32_768, share=0.5)
    )
    parts = build_parts(mixture, lambda path, split: Index(path))
    spans = LengthSchedule((Stage(sequence_length=32_768),)).spans(steps=STEPS, tokens_per_step=1 << 22)
    plan = StepPlan(parts, spans=spans, tokens_per_step=1 << 22, packing=packing)
    if packing == "concat":
        anchors = None
    else:
        draws = STEP * spans[0].sequences_per_step
        counts = plan._order.allocations[0].counts(draws)
        windows = [Anchor(max(0, n - 3), 0, len(p.documents) // 2) for n, p in zip(counts, parts, strict=True)]
        anchors = [[[a.rows, a.epoch, a.member, 0] for a in windows]]
    (folder / f"anchors-{packing}.json").write_text(json.dumps(anchors))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=float, default=1e12)
    parser.add_argument("--mean", type=float, default=2500, help="mean document length in tokens")
    parser.add_argument("--index", type=Path, default=Path("runs/startup"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("PACKING", "KIND"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.index, *args.measure)
        return
    if not (args.index / "starts.npy").exists():
        print(f"writing an index of {args.tokens / args.mean:,.0f} documents to {args.index}", file=sys.stderr)
        make_index(args.index, args.tokens, args.mean)
    results = []
    for kind in ("fresh", "resumed"):
        for packing in ("concat", "best_fit"):
            if kind == "resumed":
                make_anchors(args.index, packing)
            command = [sys.executable, __file__, "--index", str(args.index), "--measure", packing, kind]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(results[-1], file=sys.stderr)
    print(table(results))
    if args.output:
        (args.output / "data_startup.json").write_text(json.dumps(results, indent=2) + "\n")
        (args.output / "data_startup.md").write_text(table(results))


def table(results):
    first = results[0]
    lines = [
        "# Start-up at 10^12 tokens", "",
        f"{first['tokens']:,} tokens in {first['documents']:,} documents (a synthetic index), 4,194,304 tokens a step "
        "in sequences of 32,768, documents over 32,768 up-sampled to half of the tokens; resumed at step "
        f"{STEP:,}. {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}. "
        "Command: `python benchmarks/data/startup.py`.",
        "", "| packing | start | seconds to the first step | report, s | ms per further step | own memory, MiB "
        "| peak with mapped files, MiB |", "|---|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {r['packing']} | {r['kind']} | {r['seconds_to_first_step']:.2f} | {r['seconds_report']:.2f} "
        f"| {r['milliseconds_per_step']:.1f} | {r['memory']['RssAnon'] - r['memory_before']['RssAnon']} "
        f"| {r['memory']['VmHWM']} |"
        for r in results
    ]
    lines += [
        "", "The first line builds the index of the two lengths, once for a corpus (none is needed without up-sampling "
        "or filters). Mapped files are shared by all ranks of a node and given back when memory is wanted.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
