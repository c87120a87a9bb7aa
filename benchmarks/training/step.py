"""One optimizer step of a Llama shape on packed real text, on a CPU: lit-long beside its peers.

    python benchmarks/training/step.py [--corpus FOLDER] [--lengths 2048 4096 ...] [--output benchmarks/results]

Speed is tokens a second of a step (before its forward pass to after the optimizer), memory the most that the process
held. Each measurement is a process of its own; what each way does is in ``step_ways.py``. Peers that are missing leave
their lines empty: ``pip install trl litgpt litdata``. Measurements are added to ``training_step.json``, so that a run
that was cut off goes on; ``--again`` starts over.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import machine, run_alone, versions, warn_if_busy, write_results
from step_report import report
from step_ways import WAYS, run

ROOT = Path(__file__).parents[2]
SHAPE = {
    "model_type": "llama", "vocab_size": 49_152, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 32_768,
    "tie_word_embeddings": True, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
}  # fmt: skip
PACKAGES = ("lit-long", "torch", "transformers", "lightning", "trl", "litgpt", "accelerate")
STEPS = {2048: 4, 4096: 4, 8192: 3, 16_384: 3, 32_768: 2}  # the first is not counted


def save_model(folder):
    """Random weights of the shape, and a tokenizer for those who want one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    options = dict(SHAPE)
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes/assets/quickstart/base")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder / "tokenizer")
    return sum(parameter.numel() for parameter in model.parameters())


def save_rows(corpus, length, steps, file):
    """The first rows of lit-long's own order; returns the mean number of documents in a row."""
    from lit_long.data import LengthSchedule, Mixture, MixtureSource, Stage
    from lit_long.data.loader import StepLoader
    from lit_long.data.mixture import build_parts
    from lit_long.data.plan import StepPlan

    parts = build_parts(Mixture(sources={"all": MixtureSource(corpus=corpus)}))
    spans = LengthSchedule((Stage(sequence_length=length),)).spans(steps=steps, tokens_per_step=length, micro_batch=1)
    batches = list(StepLoader(StepPlan(parts, spans=spans, tokens_per_step=length), steps=steps))
    lengths = [batch["cu_seqlens"].diff().numpy() for batch in batches]
    ids = np.stack([batch["input_ids"][0].numpy() for batch in batches])
    np.savez(file, ids=ids, lengths=np.concatenate(lengths), counts=[len(each) for each in lengths])
    return float(np.mean([len(each) for each in lengths]))


def quickstart_corpus(folder):
    """The books that ship with the repository, as a corpus."""
    from lit_long.data.prepare import PrepareConfig, prepare
    from lit_long.data.sources import Source

    books = Source(path=str(ROOT / "recipes/assets/quickstart/books.jsonl.zst"))
    tokenizer = str(ROOT / "recipes/assets/quickstart/base")
    prepare(PrepareConfig(tokenizer=tokenizer, sources=(books,), output=str(folder)))
    return str(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", help="a token corpus with at most 49,152 ids; default: the quickstart's books")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--limit-gib", type=float, default=20, help="memory that a process may have")
    parser.add_argument("--steps", type=int, help="steps of each measurement, the first is not counted")
    parser.add_argument("--again", action="store_true", help="forget earlier measurements")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks"), help="folder of training_step.json, .md"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        args.result.write_text(json.dumps(run(args.measure, json.loads(args.job.read_text()))))
        return
    facts, found = machine(), versions(PACKAGES)
    warn_if_busy(facts)
    file = args.output / "training_step.json"
    data = {"measurements": []} if args.again or not file.exists() else json.loads(file.read_text())
    data |= {"machine": facts, "versions": found, "shape": SHAPE}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data["parameters"] = save_model(work)
        corpus = args.corpus or quickstart_corpus(work / "corpus")
        for length in args.lengths:
            steps = args.steps or STEPS.get(length, 3)
            documents = save_rows(corpus, length, steps, work / "rows.npz")
            job = {
                "length": length, "steps": steps, "context": SHAPE["max_position_embeddings"],
                "model": str(work / "model"), "tokenizer": str(work / "tokenizer"),
                "rows": str(work / "rows.npz"), "work": str(work / "out"), "limit_gib": args.limit_gib,
            }  # fmt: skip
            (work / "job.json").write_text(json.dumps(job))
            for way in args.ways:
                done = {(m["way"], m["length"]) for m in data["measurements"] if "error" not in m}
                if (way, length) in done:
                    continue
                environment = {"OMP_NUM_THREADS": str(facts["cores"]), "TOKENIZERS_PARALLELISM": "false"}
                result = run_alone(__file__, ["--measure", way, "--job", work / "job.json"], environment=environment)
                result |= {"way": way, "length": length, "documents": documents, "limit_gib": args.limit_gib}
                print(json.dumps(result), file=sys.stderr)
                kept = [m for m in data["measurements"] if (m["way"], m["length"]) != (way, length)]
                data["measurements"] = [*kept, result]
                write_results(args.output, "training_step", data, report(data))
    print(report(data))


if __name__ == "__main__":
    main()
