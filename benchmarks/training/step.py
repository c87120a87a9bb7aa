"""One optimizer step of a Llama shape on packed real text, on a CPU: lit-long beside its peers.

    python benchmarks/training/step.py TEXTS [--rows long packed] [--lengths 2048 4096 ...] [--output FOLDER]

TEXTS is a folder with ``books.jsonl.zst`` and ``manuals.jsonl.zst`` (``id``, ``text``). Rows are of two kinds:
``long``, parts of books, one document a row; and ``packed``, whole manuals of at most 8,000 characters, many a row.
Speed is tokens a second of a step (before its forward pass to after the optimizer), memory the most that the process
held. Each measurement is a process of its own; what each way does is in ``step_ways.py``. Peers that are missing leave
their lines empty: ``pip install trl litgpt litdata``. Measurements are added to ``training_step.json``, so that a run
that was cut off goes on; ``--again`` starts over.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import machine, run_alone, versions, warn_if_busy, write_results
from step_report import key_of, report
from step_ways import DEFAULT_WAYS, PRODUCTS, WAYS, run

ROOT = Path(__file__).parents[2]
SHAPE = {
    "model_type": "llama", "vocab_size": 49_152, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 32_768,
    "tie_word_embeddings": True, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
}  # fmt: skip
PACKAGES = ("lit-long", "torch", "transformers", "lightning", "trl", "litgpt", "accelerate")
STEPS = {2048: 5, 4096: 4, 8192: 3, 16_384: 2, 32_768: 2}  # the first is not counted
KINDS = {"long": ("books", None), "packed": ("manuals", 8000)}  # texts, and the most characters of a document
KEPT = ("kind", "length", "documents", "flops", "limit_gib", "load_before")  # of a job, in its result
MOST_CHARACTERS = 4_000_000  # of a kind: more than the rows need


def save_model(folder):
    """Random weights of the shape, and a tokenizer for those who want one; returns their number and their FLOPs."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from lit_long.flops import model_flops

    torch.manual_seed(0)
    options = dict(SHAPE)
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    flops = model_flops(model)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "recipes/assets/quickstart/base")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder / "tokenizer")
    return sum(parameter.numel() for parameter in model.parameters()), flops


def save_corpus(texts, kind, folder):
    """Documents of one kind in the order of a hash of their ids, as a token corpus."""
    from lit_long.data.prepare import PrepareConfig, prepare
    from lit_long.data.sources import Source

    name, most = KINDS[kind]
    with zstandard.open(texts / f"{name}.jsonl.zst", "rt", encoding="utf-8") as stream:
        documents = [document for line in stream if (document := json.loads(line))["text"]]
    documents.sort(key=lambda document: hashlib.sha256(document["text"].encode()).digest())
    folder.mkdir(parents=True)
    characters = 0
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as stream:
        for number, document in enumerate(documents):
            if most is None or len(document["text"]) <= most:
                stream.write(json.dumps({"id": str(number), "text": document["text"]}) + "\n")
                characters += len(document["text"])
            if characters > MOST_CHARACTERS:
                break
    tokenizer = str(ROOT / "recipes/assets/quickstart/base")
    source = Source(path=str(folder / "texts.jsonl"))
    prepare(PrepareConfig(tokenizer=tokenizer, sources=(source,), output=str(folder / "corpus")))
    return str(folder / "corpus")


def save_rows(corpus, length, steps, file):
    """The first rows of lit-long's own order; returns how many documents each has."""
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
    return lengths


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path, help="folder with books.jsonl.zst and manuals.jsonl.zst")
    parser.add_argument("--rows", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--lengths", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=DEFAULT_WAYS)
    parser.add_argument("--limit-gib", type=float, default=20, help="memory that a process may have")
    parser.add_argument("--steps", type=int, help="steps of each measurement, the first is not counted")
    parser.add_argument("--again", action="store_true", help="forget earlier measurements")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks"), help="folder of training_step.json, .md"
    )
    args = parser.parse_args()
    for kind in args.rows:
        if not (file := args.texts / f"{KINDS[kind][0]}.jsonl.zst").exists():
            parser.error(f"{file} is not there; TEXTS is a folder that holds it (--rows {kind} reads it)")
    return args


def flops_of(rows, flops):
    """Model FLOPs of each row, documents apart: a list of document lengths a row -> a list of numbers."""
    return [flops.step(int(n.sum()), int((n * (n + 1) // 2).sum())) for n in (row.astype(np.int64) for row in rows)]


def main():
    if sys.argv[1:2] == ["--measure"]:  # a process of its own, see measure()
        way, job, _, result = sys.argv[2:]
        Path(result).write_text(json.dumps(run(way, json.loads(Path(job).read_text()))))
        return
    args = arguments()
    facts, found = machine(), versions(PACKAGES)
    warn_if_busy(facts)
    file = args.output / "training_step.json"
    data = {"measurements": []} if args.again or not file.exists() else json.loads(file.read_text())
    data |= {"machine": facts, "versions": found, "shape": SHAPE}

    def measure(way, job):
        environment = {"OMP_NUM_THREADS": str(facts["cores"]), "TOKENIZERS_PARALLELISM": "false"}
        job["load_before"] = os.getloadavg()[0]
        job_file.write_text(json.dumps(job))
        result = run_alone(__file__, ["--measure", way, job_file], environment=environment)
        return result | {key: job[key] for key in KEPT if key in job} | {"way": way}

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        job_file = work / "job.json"
        data["parameters"], flops = save_model(work)
        shared = {
            "context": SHAPE["max_position_embeddings"], "model": str(work / "model"),
            "tokenizer": str(work / "tokenizer"), "rows": str(work / "rows.npz"), "work": str(work / "out"),
            "limit_gib": args.limit_gib,
        }  # fmt: skip
        if "products" not in data:
            data["products"] = measure(PRODUCTS, dict(shared))
        for kind in args.rows:
            corpus = save_corpus(args.texts, kind, work / kind)
            for length in args.lengths:
                steps = args.steps or STEPS.get(length, 3)
                rows = save_rows(corpus, length, steps, work / "rows.npz")
                documents = float(np.mean([len(each) for each in rows[1:]]))
                job = shared | {"kind": kind, "length": length, "steps": steps, "documents": documents}
                job["flops"] = flops_of(rows, flops)
                for way in args.ways:
                    key = (kind, length, way)
                    if key in {key_of(m) for m in data["measurements"] if "error" not in m}:
                        continue
                    result = measure(way, job)
                    print(json.dumps(result), file=sys.stderr)
                    data["measurements"] = [*(m for m in data["measurements"] if key_of(m) != key), result]
                    write_results(args.output, "training_step", data, report(data))
    print(report(data))


if __name__ == "__main__":
    main()
