"""Speed of the evaluation on a CPU: the quick suite, the forward pass, retrieval without generation.

    python benchmarks/evaluation/speed.py MODEL [--parts suite forward retrieval] [--output benchmarks/results]

MODEL is a folder of SmolLM2-135M-Instruct (``make smollm2``); the texts are the books that ship with the repository.
Every measurement is a process of its own; both sides of a ratio run on the same cores (``taskset``). Measurements are
kept in ``evaluation_speed.json``, so that a run that was cut off goes on; ``--again`` starts over.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import machine, run_alone, versions, warn_if_busy, write_results
from speed_report import FORWARD, report
from speed_ways import books, measure

PACKAGES = ("lit-long", "torch", "transformers", "lm_eval")
RETRIEVAL = ("one reading", "one forward each", "lm-eval, answer only", "lm-eval, as RULER")
SUITE_LENGTH = 8192


def suite(model, length, result):
    """``lit-long evaluate --suite quick`` on two of the books, as a user runs it."""
    from lit_long.data.prepare import PrepareConfig, prepare
    from lit_long.data.sources import Source
    from lit_long.entry import main as lit_long

    with tempfile.TemporaryDirectory() as folder:
        corpus, output = Path(folder) / "corpus", Path(folder) / "suite"
        some = Path(folder) / "books.jsonl"
        some.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(books()[:2])))
        prepare(PrepareConfig(tokenizer=model, sources=(Source(path=str(some)),), output=str(corpus)))
        wall, cpu = time.perf_counter(), time.process_time()
        words = ["evaluate", f"smollm2={model}", "--corpus", str(corpus), "--split", "train", "--suite", "quick"]
        code = lit_long([*words, "--max-length", str(length), "--first-token", "0", "--output", str(output)])
        seconds = {"wall": round(time.perf_counter() - wall, 1), "cpu": round(time.process_time() - cpu, 1)}
        tasks = json.loads((output / "report.json").read_text())["tasks"] if code == 0 else {}
        done = [name for name, part in tasks.items() if "content" in part]
    result.write_text(json.dumps({"seconds": seconds, "tasks": done, "code": code}))


def jobs(args):
    """All measurements that were asked for."""
    if "forward" in args.parts:
        yield from ({"what": "forward", "length": n, "way": way} for n in args.forward_lengths for way in FORWARD)
    if "retrieval" in args.parts:
        yield from ({"what": "retrieval", "length": n, "way": way} for n in args.retrieval_lengths for way in RETRIEVAL)
    if "suite" in args.parts:
        yield {"what": "suite", "length": args.suite_length, "way": "quick"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of SmolLM2-135M-Instruct, or another model with a window of 8,192")
    parser.add_argument(
        "--parts", nargs="+", choices=("suite", "forward", "retrieval"), default=["forward", "retrieval", "suite"]
    )
    parser.add_argument("--forward-lengths", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--retrieval-lengths", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--suite-length", type=int, default=SUITE_LENGTH)
    parser.add_argument("--few", type=int, default=2, help="probes that are generated as RULER does, 128 tokens each")
    parser.add_argument("--again", action="store_true", help="forget earlier measurements")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks"), help="folder of evaluation_speed.json, .md"
    )
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job.read_text())
        if job["what"] == "suite":
            suite(job["model"], job["length"], args.result)
        else:
            args.result.write_text(json.dumps(measure(job)))
        return
    facts = machine()
    warn_if_busy(facts)
    file = args.output / "evaluation_speed.json"
    data = {"measurements": []} if args.again or not file.exists() else json.loads(file.read_text())
    threads = int(os.environ.get("OMP_NUM_THREADS", facts["cores"]))
    # of the first call; each measurement notes its own threads and load
    data = {"machine": facts, "versions": versions(PACKAGES), "threads": threads} | data
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    for job in jobs(args):
        if any({k: m.get(k) for k in job} == job and "error" not in m for m in data["measurements"]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "job.json"
            path.write_text(json.dumps(job | {"model": args.model, "few": args.few}))
            found = job | run_alone(__file__, [args.model, "--job", path], environment=environment, every=1.0)
        found |= {"threads": threads, "load_before": facts["load_before"]}
        print(json.dumps(found), file=sys.stderr)
        kept = [m for m in data["measurements"] if {k: m.get(k) for k in job} != job]
        data["measurements"] = [*kept, found]
        write_results(args.output, "evaluation_speed", data, report(data))


if __name__ == "__main__":
    main()
