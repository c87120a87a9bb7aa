"""Predicted beside measured peak memory of real training steps on a CPU, ten configurations.

Measured: every allocation and release of PyTorch's CPU allocator during two optimizer steps (torch.profiler), on top of
the parameters that are there when they begin; the highest sum. So threads' stacks, imports and the C library's
fragments, which a process has beside, are in neither number.

    python benchmarks/planner/memory.py --corpus runs/texts/corpus --model .cache/smollm2 --output benchmarks/results
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}
WIDE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
LEVERS = {"checkpointing": "none", "offload": False, "tile_size": 0}
# name -> model, length, levers, LoRA rank, rows a step and rank, data x context
CASES = {
    "small, 2,048": (SMALL, 2048, {}, 0, 1, (1, 1)),
    "small, 8,192": (SMALL, 8192, {}, 0, 1, (1, 1)),
    "small, 8,192, accumulated": (SMALL, 8192, {}, 0, 2, (1, 1)),
    "small, 8,192, selective": (SMALL, 8192, {"checkpointing": "selective"}, 0, 1, (1, 1)),
    "small, 8,192, full": (SMALL, 8192, {"checkpointing": "full"}, 0, 1, (1, 1)),
    "small, 16,384, selective, tiles": (SMALL, 16384, {"checkpointing": "selective", "tile_size": 4096}, 0, 1, (1, 1)),
    "wide, 4,096": (WIDE, 4096, {}, 0, 1, (1, 1)),
    "wide, 4,096, full": (WIDE, 4096, {"checkpointing": "full"}, 0, 1, (1, 1)),
    "SmolLM2-135M, LoRA, 2,048": (None, 2048, {}, 8, 1, (1, 1)),
    "SmolLM2-135M, LoRA, 4,096, selective": (None, 4096, {"checkpointing": "selective"}, 8, 1, (1, 1)),
    "small, 8,192, 1 x 2": (SMALL, 8192, {}, 0, 1, (1, 2)),
    "small, 4,096, 2 x 1, selective": (SMALL, 4096, {"checkpointing": "selective"}, 0, 1, (2, 1)),
}


def one(name: str, corpus: str, model: str, out: Path) -> None:
    """Train two steps of a case and write what was predicted and measured; in a process of its own."""
    import lightning.pytorch as pl
    import torch

    from lit_long import LongContextModule
    from lit_long.data import PretrainData
    from lit_long.model.levers import Levers
    from lit_long.model.lora import LoraSettings
    from lit_long.model.memory import ModelFacts, estimate
    from lit_long.planner.timeline import highest, timeline
    from lit_long.rope import ABF

    shape, length, levers, rank, rows, (data_ranks, context) = CASES[name]

    class Measure(pl.Callback):
        began = 0
        profiler = None

        def on_train_start(self, trainer, module):
            storages = {}
            for tensor in [*module.parameters(), *module.buffers()]:
                local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
                storages[local.untyped_storage().data_ptr()] = local.untyped_storage().nbytes()
            self.began = sum(storages.values())
            self.profiler = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            )
            self.profiler.__enter__()

        def on_train_end(self, trainer, module):
            self.profiler.__exit__(None, None, None)
            events = self.profiler.profiler.kineto_results.events()
            moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
            total = peak = 0
            for _, size in moves:
                total += size
                peak = max(peak, total)
            run = module.run_facts()
            terms = estimate(ModelFacts.of(module.model), run, module.built.levers)
            moment = highest(timeline(terms, ModelFacts.of(module.model).layers))
            if trainer.is_global_zero:
                found = {"measured": self.began + peak, "predicted": moment.total, "where": moment.where}
                out.write_text(json.dumps(found | {"began": self.began, "terms": vars(terms)}))

    config = None
    if shape is not None:
        config = {
            "model_type": "llama", "vocab_size": 49_152, "num_key_value_heads": shape["num_attention_heads"] // 2,
            "max_position_embeddings": 2048, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}, **shape,
        }  # fmt: skip
    module = LongContextModule(
        model=None if shape else model,
        model_config=config,
        context_length=max(length, 8192),
        rope=ABF(base=500_000) if shape and length > 2048 else None,
        levers=Levers(**{**LEVERS, **levers}),
        lora=LoraSettings(r=rank) if rank else None,
    )
    data = PretrainData(corpus=corpus, sequence_length=length, tokens_per_step=length * rows * data_ranks)
    strategy = "auto"
    if data_ranks * context > 1:
        from lit_long.parallel import ContextParallelStrategy

        strategy = ContextParallelStrategy(context_parallel_size=context)
    trainer = pl.Trainer(
        accelerator="cpu", devices=data_ranks * context, strategy=strategy, max_steps=2, callbacks=[Measure()],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, data)


def report(rows: dict[str, dict[str, float]]) -> str:
    """The table."""
    import platform

    import torch

    worst = max(abs(r["predicted"] / r["measured"] - 1) for r in rows.values())
    lines = [
        "# Planned and measured memory on a CPU",
        "",
        "Peak bytes of PyTorch's allocator over two optimizer steps, beside the plan's prediction. float32, AdamW, one "
        f"row a micro-batch, packed real text. torch {torch.__version__}, Python {platform.python_version()}. Command: "
        "`python benchmarks/planner/memory.py --corpus CORPUS --model .cache/smollm2`. Small: 31.9 M parameters, 8 "
        "layers of 384; wide: 12 layers of 768; `1 x 2`: data x context ranks through gloo, of one rank.",
        "",
        "| configuration | predicted, MB | measured, MB | error | where |",
        "|---|---:|---:|---:|---|",
    ]
    for name, row in rows.items():
        error = row["predicted"] / row["measured"] - 1
        cells = [name, f"{row['predicted'] / 1e6:,.0f}", f"{row['measured'] / 1e6:,.0f}", f"{error:+.1%}", row["where"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Largest error {worst:.1%}; the goal is 5 %.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FILE"))
    args = parser.parse_args()
    if args.one:
        one(args.one[0], args.corpus, args.model, Path(args.one[1]))
        return
    rows = {}
    kept = args.output / "planner_memory.json" if args.output else None
    if args.only and kept is not None and kept.is_file():  # the others stay as they were measured
        rows = json.loads(kept.read_text())
    for name in args.only or CASES:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "row.json"
            words = ["--corpus", args.corpus, "--model", args.model, "--one", name, str(out)]
            subprocess.run([sys.executable, __file__, *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            rows[name] = json.loads(out.read_text())
        row = rows[name]
        print(f"{name}: {row['predicted'] / 1e6:,.0f} predicted, {row['measured'] / 1e6:,.0f} measured", flush=True)
    if args.output:
        (args.output / "planner_memory.json").write_text(json.dumps(rows, indent=1) + "\n")
        (args.output / "planner_memory.md").write_text(report({name: rows[name] for name in CASES if name in rows}))


if __name__ == "__main__":
    main()
