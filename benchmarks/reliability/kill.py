"""Kill a run with kill -9 at random moments, go on with its newest checkpoint, and compare it with one never killed.

    python benchmarks/reliability/kill.py [--kills 30] [--output benchmarks/results]

Two processes (gloo) train a small Llama on the quickstart's books under ContextParallelStrategy, and save a sharded
checkpoint every second step, so that many kills fall into a save. Every process of the run is killed at once. Two
series: always the same mesh (losses must be identical to the last bit), and another mesh each time, from one to four
processes (they must agree within rounding). Processes are forked from this one, which has imported everything, because
a start would otherwise be most of the time.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import machine, versions, write_results

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "recipes/assets/quickstart"
LENGTH, STEPS, EVERY = 512, 80, 2
MESHES = [(1, 2), (2, 1), (1, 1), (2, 2), (1, 3)]
CONFIG = {
    "model_type": "llama", "vocab_size": 4096, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip


def train(rank, world, port, mesh, corpus, folder):
    """One process of a run; goes on where the folder's newest checkpoint is."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "kill",
    }  # fmt: skip
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(os.open(folder / f"log{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    import lightning.pytorch as pl

    from lit_long.callbacks.step_metrics import StepMetrics
    from lit_long.data import PretrainData
    from lit_long.loggers import JSONLLogger
    from lit_long.module import LongContextModule
    from lit_long.optim import OptimizerSettings
    from lit_long.parallel.newest import newest_checkpoint
    from lit_long.parallel.strategy import ContextParallelStrategy
    from lit_long.rope import ABF

    pl.seed_everything(1, verbose=False)
    module = LongContextModule(
        model_config=CONFIG,
        context_length=LENGTH,
        rope=ABF(base=500_000),
        optimizer=OptimizerSettings(learning_rate=1e-3, warmup_steps=4),
    )
    data = PretrainData(corpus=corpus, sequence_length=LENGTH, tokens_per_step=4 * LENGTH)
    saver = pl.callbacks.ModelCheckpoint(
        dirpath=folder / "checkpoints", every_n_train_steps=EVERY, save_top_k=2, monitor="step", mode="max",
        save_last=True, enable_version_counter=False,
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", devices=world, max_steps=STEPS, log_every_n_steps=1, gradient_clip_val=1.0,
        strategy=ContextParallelStrategy(data_parallel_size=mesh[0], context_parallel_size=mesh[1]),
        logger=JSONLLogger(save_dir=str(folder)), enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, callbacks=[saver, StepMetrics()],
    )  # fmt: skip
    newest = newest_checkpoint(folder / "checkpoints")
    trainer.fit(module, data, ckpt_path=str(newest) if newest else None)


def start(mesh, corpus, folder):
    """Process numbers of a run that has just been started."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    numbers = []
    for rank in range(mesh[0] * mesh[1]):
        number = os.fork()
        if number == 0:
            code = 1
            try:
                train(rank, mesh[0] * mesh[1], port, mesh, corpus, folder)
                code = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        numbers.append(number)
    return numbers


def wait(numbers, seconds=None):
    """Exit codes, or None if the run was still going on after ``seconds``."""
    codes, until = {}, None if seconds is None else time.monotonic() + seconds
    while len(codes) < len(numbers):
        for number in numbers:
            if number not in codes:
                done, status = os.waitpid(number, os.WNOHANG)
                if done:
                    codes[number] = status
        if until is not None and time.monotonic() > until:
            return None
        time.sleep(0.01)
    return list(codes.values())


def kill(numbers):
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    for number in numbers:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(number, 0)


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in rows if "loss" in row}


def series(name, meshes, kills, corpus, work, straight, seconds, chance):
    """Kill a run ``kills`` times, let it end, and compare."""
    folder, killed, in_save, runs = work / name, 0, 0, 1
    while killed < kills:
        mesh = meshes[killed % len(meshes)]
        numbers = start(mesh, corpus, folder)
        codes = wait(numbers, chance.uniform(0.5, seconds))
        if codes is not None:
            if any(codes):
                raise SystemExit(f"a run ended with {codes}: {(folder / 'log0.txt').read_text()[-2000:]}")
            # it came to its end: once more from the beginning, into the same counts
            compare(folder, straight, exact=len(meshes) == 1)
            (folder / "metrics.jsonl").unlink()
            shutil.rmtree(folder / "checkpoints")
            runs += 1
            continue
        kill(numbers)
        killed += 1
        in_save += any((folder / "checkpoints").glob(".unfinished-*")) if (folder / "checkpoints").exists() else 0
        print(f"{name}: killed {killed}/{kills} on mesh {mesh}", file=sys.stderr)
    codes = wait(start(meshes[-1], corpus, folder))
    if any(codes):
        raise SystemExit(f"the last run ended with {codes}: {(folder / 'log0.txt').read_text()[-2000:]}")
    worst = compare(folder, straight, exact=len(meshes) == 1)
    return {
        "series": name, "meshes": [list(m) for m in meshes], "killed": killed, "killed_while_saving": int(in_save),
        "runs": runs, "resumed": killed, "steps": STEPS, "largest_relative_difference": worst,
    }  # fmt: skip


def compare(folder, straight, *, exact):
    found = losses(folder)
    if found.keys() != straight.keys():
        raise SystemExit(f"steps differ: {sorted(found.keys() ^ straight.keys())}")
    worst = max(abs(a - b) / abs(b) for step in straight for a, b in zip(found[step], straight[step], strict=True))
    if worst > (0 if exact else 1e-3):
        raise SystemExit(f"{folder.name}: losses differ by {worst:.1e}")
    return worst


def report(data):
    lines = [
        "# Killed and resumed",
        "",
        f"`python benchmarks/reliability/kill.py --kills {data['kills']}` on {data['machine']['cpu']}, "
        f"{data['machine']['cores']} cores; " + ", ".join(f"{k} {v}" for k, v in data["versions"].items()) + ".",
        "",
        f"A run of {STEPS} steps that saves a sharded checkpoint every {EVERY} steps, killed with kill -9 (all its "
        "processes) at random moments and started again with its newest complete checkpoint, until it is through. "
        "Losses and gradient norms of every step are compared with a run that was never killed.",
        "",
        "| series | kills | in the middle of a save | resumed | steps compared | largest relative difference |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in data["series"]:
        worst = row["largest_relative_difference"]
        same = "0 (identical)" if worst == 0 else f"{worst:.1e}"
        lines.append(
            f"| {row['series']} | {row['killed']} | {row['killed_while_saving']} | {row['resumed']} | {row['steps']} | "
            f"{same} |"
        )
    return "\n".join([*lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="of each series")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    from lit_long.callbacks import Throughput  # noqa: F401 - children are forked with everything imported
    from lit_long.data.prepare import PrepareConfig, prepare
    from lit_long.data.sources import Source
    from lit_long.module import LongContextModule  # noqa: F401
    from lit_long.parallel.strategy import ContextParallelStrategy  # noqa: F401

    chance = random.Random(args.seed)
    data = {"kills": args.kills, "machine": machine(), "versions": versions(("lit-long", "torch", "lightning"))}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        books = Source(path=str(ASSETS / "books.jsonl.zst"))
        prepare(PrepareConfig(tokenizer=str(ASSETS / "base"), sources=(books,), output=str(work / "corpus")))
        began = time.monotonic()
        codes = wait(start((1, 2), str(work / "corpus"), work / "straight"))
        seconds = time.monotonic() - began
        if any(codes):
            raise SystemExit((work / "straight/log0.txt").read_text()[-3000:])
        straight = losses(work / "straight")
        assert len(straight) == STEPS, len(straight)
        data["series"] = [
            series(
                "same mesh (1 x 2)", [(1, 2)], args.kills, str(work / "corpus"), work, straight, seconds / 2, chance
            ),
            series("another mesh each time", MESHES, args.kills, str(work / "corpus"), work, straight, seconds, chance),
        ]
    write_results(args.output, "reliability_kill", data, report(data))
    print(report(data))


if __name__ == "__main__":
    main()
