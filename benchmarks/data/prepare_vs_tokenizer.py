"""Tokens a second of ``lit-long prepare`` beside those of the bare Rust tokenizer, on the same text and cores.

    python benchmarks/data/prepare_vs_tokenizer.py --tokenizer TOKENIZER --texts A.jsonl.zst B.jsonl.zst \
        [--megabytes 16] [--runs 5] [--output benchmarks/results]

The bare tokenizer has all texts in memory and encodes them with ``encode_batch`` on all cores (its own threads), in
batches of a few MB, ids and nothing else kept. ``prepare`` reads them from a .jsonl file and writes a whole corpus. The
runs alternate, each in a process of its own. A run's seconds are those of the work itself: for the tokenizer the calls
of ``encode_batch``; for prepare both the whole command (``command``: imports, start of the processes and all) and the
time from the first item handed out to the corpus in its place (``work``), which is what counts for a long run.
Core seconds are processor time of the same span, all threads and processes together: they hardly depend on what else
the machine does.
"""

import argparse
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH_CHARS = 4_000_000


def cut(files, megabytes, out):
    """The first ``megabytes`` of text of each file (whole documents) as one .jsonl file."""
    import zstandard

    size = 0
    with out.open("w", encoding="utf-8") as target:
        for file in files:
            own = 0
            with open(file, "rb") as packed:
                for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8"):
                    text = json.loads(line)["text"]
                    if len(text) > megabytes * 250_000:  # one document must not be a large part of a short benchmark
                        continue
                    target.write(json.dumps({"id": f"{Path(file).name}:{size}", "text": text}) + "\n")
                    own, size = own + len(text.encode()), size + len(text.encode())
                    if own >= megabytes * 1e6:
                        break
    return size


def core_seconds():
    """Processor time of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def bare(texts_file, tokenizer):
    from lit_long.data.tokenizer import load_tokenizer

    backend = load_tokenizer(tokenizer).backend_tokenizer
    with open(texts_file, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    batches, size = [[]], 0
    for text in texts:
        if size > BATCH_CHARS:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += len(text)
    tokens, begin, core = 0, time.perf_counter(), core_seconds()
    for batch in batches:
        tokens += sum(map(len, backend.encode_batch(batch, add_special_tokens=False)))
    work = time.perf_counter() - begin
    return {"tokens": tokens, "documents": len(texts), "work": work, "core": core_seconds() - core}


def ours(texts_file, tokenizer, output):
    import lit_long.data.prepare.run as run
    from lit_long.data.prepare import PrepareConfig, Source, prepare

    config = PrepareConfig(tokenizer=tokenizer, sources=(Source(path=texts_file),), output=output)
    began, own = [], run.run_items
    run.run_items = lambda *args: began.append((time.perf_counter(), core_seconds())) or own(*args)
    result = prepare(config).splits["train"]
    work, core = time.perf_counter() - began[0][0], core_seconds() - began[0][1]
    return {"tokens": result.tokens - result.documents, "documents": result.documents, "work": work, "core": core}


def one(kind, texts_file, tokenizer, output):
    shutil.rmtree(output, ignore_errors=True)
    begin = time.perf_counter()
    command = [sys.executable, __file__, "--one", kind, "--texts", str(texts_file), "--tokenizer", tokenizer]
    done = subprocess.run([*command, "--output", str(output)], check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result | {"command": time.perf_counter() - begin}


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def markdown(report):
    def cells(values):
        return " | ".join(f"{values[key]:,.0f}" for key in ("min", "median", "max"))

    lines = [
        "# Speed of prepare",
        "",
        f"{report['bytes'] / 1e6:.0f} MB of text ({', '.join(report['texts'])}), {report['documents']:,} documents, "
        f"{report['tokens']:,} tokens; {report['cores']} cores; {report['runs']} runs of each, alternating. "
        f"{report['system']}. Command: `{report['command']}`.",
        "",
        "| tokens a second | min | median | max |",
        "| --- | ---: | ---: | ---: |",
        f"| bare tokenizer, `encode_batch` | {cells(report['bare'])} |",
        f"| prepare, the work | {cells(report['work'])} |",
        f"| prepare, the whole command | {cells(report['command_rate'])} |",
        "",
        "| tokens a core second | min | median | max |",
        "| --- | ---: | ---: | ---: |",
        f"| bare tokenizer, `encode_batch` | {cells(report['bare_core'])} |",
        f"| prepare, the work | {cells(report['work_core'])} |",
        "",
        f"prepare's work runs at {report['ratio']:.0%} of the bare tokenizer's speed (medians); by pairs of runs "
        f"{report['pair_ratio']['min']:.0%} to {report['pair_ratio']['max']:.0%}; by core seconds at "
        f"{report['core_ratio']:.0%}. The tokenizer's `encode_batch` also finds character offsets, which prepare "
        f"leaves out (`encode_batch_fast`, the same ids).",
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--texts", nargs="+", required=True)
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output")
    parser.add_argument("--one", choices=["bare", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        given = (args.texts[0], args.tokenizer)
        print(json.dumps(bare(*given) if args.one == "bare" else ours(*given, args.output)))
        return
    with tempfile.TemporaryDirectory() as folder:
        texts_file = Path(folder) / "texts.jsonl"
        size = cut(args.texts, args.megabytes, texts_file)
        runs = {"bare": [], "ours": []}
        for number in range(args.runs):
            for kind in ("bare", "ours") if number % 2 == 0 else ("ours", "bare"):
                runs[kind].append(one(kind, texts_file, args.tokenizer, Path(folder) / "corpus"))
                print(kind, {key: round(value, 2) for key, value in runs[kind][-1].items()}, file=sys.stderr)
    tokens = {run["tokens"] for kind in runs.values() for run in kind}
    assert len(tokens) == 1, f"they do not agree on the tokens: {tokens}"
    rates = {kind: [run["tokens"] / run["work"] for run in done] for kind, done in runs.items()}
    cores = {kind: [run["tokens"] / run["core"] for run in done] for kind, done in runs.items()}
    pairs = [our / other for our, other in zip(rates["ours"], rates["bare"], strict=True)]
    import tokenizers

    report = {
        "bytes": size,
        "texts": [Path(text).name for text in args.texts],
        "documents": runs["ours"][0]["documents"],
        "tokens": tokens.pop(),
        "cores": len(os.sched_getaffinity(0)),
        "runs": args.runs,
        "system": f"{platform.machine()}, Python {platform.python_version()}, tokenizers {tokenizers.__version__}",
        "command": f"python benchmarks/data/{Path(__file__).name} --megabytes {args.megabytes:g} --runs {args.runs}",
        "bare": spread(rates["bare"]),
        "work": spread(rates["ours"]),
        "command_rate": spread([run["tokens"] / run["command"] for run in runs["ours"]]),
        "ratio": statistics.median(rates["ours"]) / statistics.median(rates["bare"]),
        "pair_ratio": spread(pairs),
        "bare_core": spread(cores["bare"]),
        "work_core": spread(cores["ours"]),
        "core_ratio": statistics.median(cores["ours"]) / statistics.median(cores["bare"]),
        "all": runs,
    }
    print(markdown(report))
    if args.output:
        Path(args.output).mkdir(parents=True, exist_ok=True)
        (Path(args.output) / "prepare.json").write_text(json.dumps(report, indent=2) + "\n")
        (Path(args.output) / "prepare.md").write_text(markdown(report))


if __name__ == "__main__":
    main()
