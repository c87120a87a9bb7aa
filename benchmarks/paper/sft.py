"""Instruction tuning in small (paper, Table 9).

The four arms: short chats; with pretraining text; with long self-instruct data, without and with loss on its input.

    python benchmarks/paper/texts.py TEXTS runs/paper
    python benchmarks/paper/positions.py --work runs/paper      # its first step trains the base that this begins from
    python benchmarks/paper/sft.py --work runs/paper [--seeds 1] [--steps 48]

Trains what is not trained yet, measures what is not measured yet, and writes benchmarks/results/paper_sft.json. The
base is first continued to 2,048 tokens (the paper tuned long models); then each arm tunes it for
the same number of steps of 8,192 tokens, with the recipes' own overlays (recipes/instruct/table9).

**What stands for the paper's data.** No public chat set can be had where the studies run, so short and long chats are
made by rule from the documents that the base was trained on (rules.py), through the pipeline of ``lit-long
synthesize``: they teach to answer from a text, and nothing else that a chat set teaches.

**Measured** is the loss of the right answers to questions about documents that no run has seen, with the document and
without it: 95 % intervals over documents, paired with the arm of short chats on the same questions.
"""

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from arms import HERE, ROOT, Arm, release, sources
from measure import Lines
from sft_data import LONG, TEMPLATE, TOKENIZER, by_rule, make_chats

from lit_long.data import InstructData, InstructSource
from lit_long.evaluation.chats import examples_of, measure_chats, summarise_chats
from lit_long.evaluation.raw_store import model_key
from lit_long.model.inference import load_for_inference

ARMS = {
    "short": "a_short",
    "+ pretraining text": "b_pretrain",
    "+ self-instruct": "c_self_instruct",
    "+ self-instruct, input loss": "d_self_instruct_input_loss",
}
BEFORE = "before"
KEEP = 256  # tokens of the input that are left where the document is taken away
RESULT = ROOT / "benchmarks" / "results" / "paper_sft.json"
RECIPES = HERE / "recipes"


def train(work: Path, seeds: int, steps: int) -> tuple[dict[str, str], dict[str, float]]:
    """Model paths by name (``before``, ``short 1``, ...) and the seconds that each took."""
    if not (work / "base" / "config.json").exists():
        sys.exit(f"{work / 'base'} is not there: benchmarks/paper/positions.py trains it first")
    start = Arm(
        work / "sft_long",
        (RECIPES / "long.yaml", RECIPES / "common.yaml"),
        {"model.model": str(work / "base"), "seed_everything": 20, "data.init_args.seed": 20, **sources(work)},
    )
    seconds = {"continued to 2,048": start.train()["seconds"]}
    folder = release(start.checkpoint, work / "sft_start")
    models = {BEFORE: str(folder)}
    for seed in range(1, seeds + 1):
        for name, overlay in ARMS.items():
            arm = Arm(
                work / f"sft_{steps}_{overlay}_{seed}",
                (RECIPES / "sft.yaml", ROOT / "recipes" / "instruct" / "table9" / f"{overlay}.yaml"),
                {
                    "model.model": str(folder),
                    "seed_everything": seed,
                    "data.init_args.seed": seed,
                    "data.init_args.cache": str(work / "chats" / "cache"),
                    "trainer.max_steps": steps,
                    **_data(work, overlay),
                },
            )
            seconds[f"{name} {seed}"] = arm.train()["seconds"]
            models[f"{name} {seed}"] = arm.checkpoint
    return models, seconds


def _data(work: Path, overlay: str) -> dict[str, Any]:
    """The overlay's own sources, with the study's data behind their names; pretraining text as the base saw it."""
    found: dict[str, Any] = {"short": {"path": str(work / "chats" / "short")}}
    weights = None
    if overlay == "b_pretrain":
        found |= {name: {"corpus": str(work / name)} for name in ("books", "manuals", "code")}
        weights = {"short": 1, "books": 0.5, "manuals": 0.25, "code": 0.25}
    elif overlay != "a_short":
        found |= {"long": {"path": str(work / "chats" / "long"), "long": True}}
        weights = {"short": 1, "long": 1}
    return {"data.init_args.sources": found, "data.init_args.weights": weights}


def measure(work: Path, models: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of each model on the same held-out questions; raw rows are kept and used again."""
    chats = {rule: InstructSource(path=str(file), long=True) for rule, file in by_rule(work, "held_out_long").items()}
    chats["short"] = InstructSource(path=str(work / "chats" / "held_out_short"))
    data = InstructData(
        sources=chats,
        sequence_length=LONG,
        tokens_per_step=LONG,
        tokenizer=TOKENIZER,
        chat_template=str(TEMPLATE),
        cache=str(work / "chats" / "cache"),
    )
    examples = examples_of(data, None, "train")
    rows = {}
    for name, path in models.items():
        rows[name] = measure_chats(
            load_for_inference(path).model,
            examples,
            keep=KEEP,
            file=work / "raw" / "sft" / f"{Path(path).parent.parent.name if path.endswith('.ckpt') else name}.jsonl",
            model_key=model_key(path),
            name=name,
            progress=Lines(),
        )
    return rows


def tabulate(rows: dict[str, list[dict[str, Any]]], seeds: int) -> dict[str, Any]:
    """Scores by arm and by rule; ``long`` is all long questions together. Rows are averaged over seeds first."""
    mean = {name: _over_seeds([rows[f"{name} {seed}"] for seed in range(1, seeds + 1)]) for name in ARMS}
    mean[BEFORE] = rows[BEFORE]
    pooled = {
        name: [*own, *({**row, "source": "long"} for row in own if row["source"] != "short")]
        for name, own in mean.items()
    }
    arms: dict[str, Any] = {name: {} for name in (BEFORE, *ARMS)}
    for score in summarise_chats(pooled):  # the first arm is the reference
        arms[score.model][score.source] = asdict(score)
    if seeds > 1:
        for name in ARMS:
            each = [_loss(rows[f"{name} {seed}"]) for seed in range(1, seeds + 1)]
            arms[name]["long"]["seed_sd"] = float(torch.tensor(each, dtype=torch.float64).std())
    return arms


def _loss(rows: list[dict[str, Any]]) -> float:
    long = [row["nll"] for row in rows if row["source"] != "short"]
    return float(sum(long) / len(long))


def _over_seeds(each: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    found = []
    for same in zip(*each, strict=True):
        row = dict(same[0])
        for key in ("nll", "short_nll"):
            if key in row:
                row[key] = sum(one[key] for one in same) / len(same)
        found.append(row | {"greedy": sum(one["greedy"] for one in same) / len(same)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=48, help="of each arm")
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    work = args.work.resolve()
    os.chdir(ROOT)  # recipes name files of the repository
    pairs = make_chats(work)
    print(f"chats: {pairs}", flush=True)
    models, seconds = train(work, args.seeds, args.steps)
    result = {
        "command": f"python benchmarks/paper/sft.py --seeds {args.seeds} --steps {args.steps}",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "length": LONG,
        "kept_input_tokens": KEEP,
        "seeds": args.seeds,
        "steps": args.steps,
        "chats": pairs,
        "training_seconds": seconds,
        "arms": tabulate(measure(work, models), args.seeds),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {args.output.name}")


if __name__ == "__main__":
    main()
