"""The evaluation's forward pass beside stock transformers', turn by turn in one process: speed alone.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/evaluation/forward_rounds.py MODEL [--output benchmarks/results]

``speed.py`` measures each way once in a process of its own, which memory asks for; on a machine that others use, two
such measurements differ by more than the ways do. Here both take turns, in changing order, on the same window.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import environment_line, machine, versions, write_results
from speed_ways import Clock, books, load

from lit_long.evaluation import position_nll


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of SmolLM2-135M-Instruct or another model")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of evaluation_forward.*")
    args = parser.parse_args()
    facts, found = machine(), versions(("lit-long", "torch", "transformers"))
    model, tokenizer = load(args.model)
    text = books()[0][100_000 : 100_000 + 8 * args.length]
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][: args.length + 1])[None]

    def stock():
        with torch.inference_mode():
            return model(input_ids=ids, labels=ids, use_cache=False).loss

    ways = {"lit-long": lambda: position_nll(model, ids).mean(), "transformers": stock}
    seconds = {way: [] for way in ways}
    for number in range(args.rounds):
        for way in list(ways)[:: 1 if number % 2 == 0 else -1]:
            with Clock() as clock:
                ways[way]()
            seconds[way].append(round(clock.cpu, 2))
    middle = {way: median(each) for way, each in seconds.items()}
    text = "\n".join([
        "# Forward pass of the evaluation, turn by turn with transformers", "",
        f"One window of {args.length:,} tokens, float32, {torch.get_num_threads()} thread. "
        f"{environment_line(facts, found)}", "",
        "Command: `OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/evaluation/forward_rounds.py MODEL --output "
        "benchmarks/results`", "", "| way | CPU seconds of each round | median |", "|---|---|---:|",
        *(f"| {way} | {', '.join(f'{s:.2f}' for s in each)} | {middle[way]:.2f} |" for way, each in seconds.items()),
        "", f"{middle['transformers'] / middle['lit-long']:.2f} x the speed of transformers (goal: at least as fast).",
    ])  # fmt: skip
    write_results(
        args.output, "evaluation_forward", {"machine": facts, "versions": found, "seconds": seconds}, text + "\n"
    )
    print(text)


if __name__ == "__main__":
    main()
