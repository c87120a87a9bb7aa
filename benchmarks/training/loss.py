"""Cross-entropy from hidden states, forward and backward: our chunks, torch's operator, whole logits, and the floor.

    python benchmarks/training/loss.py [--output benchmarks/results]

The floor is the three matrix products of the same chunks and nothing else: what no loss that makes logits can beat.
Each is timed in this process, in rounds of changing order after one that is not counted; ratios are to our chunks.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import environment_line, machine, versions, warn_if_busy, write_results

TOKENS, VOCABULARY = 4096, 49_152


def floor(hidden, weight, targets):
    import torch

    from lit_long.loss.chunked import default_chunk_size

    size = default_chunk_size(weight.shape[0], weight.device)
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
    for start in range(0, len(hidden), size):
        chunk = hidden[start : start + size]
        logits = chunk @ weight.T
        torch.mm(logits, weight, out=grad_hidden[start : start + size])
        grad_weight.addmm_(logits.T, chunk)


def ways():
    import torch
    from torch.nn import functional as F

    from lit_long.loss import linear_cross_entropy

    def ours(backend):
        def run(hidden, weight, targets):
            linear_cross_entropy(hidden, weight, targets, backend=backend).loss.backward()

        return run

    def whole(hidden, weight, targets):
        F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum").backward()

    found = {"lit-long, chunked": ours("chunked"), "whole logits": whole, "matrix products only": floor}
    return found | (
        {"torch's operator, our chunk size": ours("torch")} if hasattr(F, "linear_cross_entropy") else {}
    ), torch


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="folder for training_loss.md and training_loss.json")
    args = parser.parse_args()
    facts, found = machine(), versions(("lit-long", "torch"))
    warn_if_busy(facts)
    all_ways, torch = ways()
    seconds = {}
    for dim in (384, 576):
        torch.manual_seed(0)
        hidden = torch.randn(TOKENS, dim)
        weight = torch.randn(VOCABULARY, dim) / dim**0.5
        targets = torch.randint(0, VOCABULARY, (TOKENS,))
        for number in range(args.repeats + 1):
            names = list(all_ways)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                grad = name != "matrix products only"
                inputs = (hidden.clone().requires_grad_(grad), weight.clone().requires_grad_(grad), targets)
                began = time.perf_counter()
                all_ways[name](*inputs)
                if number:
                    seconds.setdefault(f"{name} {dim}", []).append(time.perf_counter() - began)
    lines = [
        "# Cross-entropy from hidden states, forward and backward", "",
        f"{TOKENS:,} tokens, vocabulary {VOCABULARY:,}, float32; {args.repeats} rounds, median. "
        f"{environment_line(facts, found)}", "", "Command: `python benchmarks/training/loss.py`", "",
        "| hidden size | way | seconds | over lit-long's |", "|---:|---|---:|---:|",
    ]  # fmt: skip
    for dim in (384, 576):
        ours = median(seconds[f"lit-long, chunked {dim}"])
        for name in all_ways:
            taken = median(seconds[f"{name} {dim}"])
            lines.append(f"| {dim} | {name} | {taken:.2f} | {taken / ours:.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        data = {"machine": facts, "versions": found, "seconds": seconds}
        write_results(args.output, "training_loss", data, text)


if __name__ == "__main__":
    main()
