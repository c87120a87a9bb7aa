"""Tokens to shuffled batches of tensors: lit-long and peers over the same tokens.

    python benchmarks/data/load.py [--text FILE ...] [--tokenizer FOLDER] [--repeats 5] [--output benchmarks/results]

Peers (optional; one that is missing leaves its line empty): ``pip install litdata datatrove[processing]``; ``datasets``
and torch's ``DataLoader`` are lit-long's own needs. What each does is in ``load_peers.py``, what is measured in
``load_measures.py``: tokens/s at three sequence lengths, seconds to the first batch fresh and resumed, and memory by
corpus size. The text is prepared once with lit-long; each peer's own format is written from that corpus, so all read
the same tokens. Each measurement is a process of its own, in rounds of changing order; the first round warms the page
cache and is not counted. Disk: about 6 bytes a token and way at a time, and 1.2 GB for the memory table.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from load_corpus import prepared, repeated
from load_measures import MEASURES
from load_peers import STEP_TOKENS, WAYS
from load_report import PACKAGES, report
from measured import machine, run_alone, versions, warn_if_busy, write_results
from prepare import BOOKS, TOKENIZER

LENGTHS = {4096: 8, 32_768: 1, 1 << 20: 1}  # tokens of a sequence -> sequences of a batch
SIZES = (10, 100, 1000)  # MB of tokens (4 bytes each)


def measure(kind, job, work):
    """One process."""
    file = work / "job.json"
    file.write_text(json.dumps(job))
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work / "hf"), "OMP_NUM_THREADS": "1"}
    result = run_alone(__file__, ["--measure", kind, "--job", file], environment=environment)
    print(kind, job["way"], job["length"], f"workers {job['workers']}", json.dumps(result), file=sys.stderr)
    return result


def written(way, base, work):
    """The folder of a peer's own format, or why it could not be written."""
    folder = work / "peer"
    if WAYS[way].write is None:
        return folder, None
    result = measure("write", base | {"folder": str(folder)}, work)
    return folder, result.get("error")


def rates(base, ways, repeats, work):
    """Tokens/s of every way, workers and length; a peer's folder lives as long as it is measured."""
    found = []
    for length, sequences in LENGTHS.items():
        for way in ways:
            job = base | {"way": way, "length": length, "sequences": sequences, "workers": 0}
            folder, error = written(way, job, work)
            for workers in WAYS[way].workers:
                results = []
                for number in range(repeats + 1):
                    if error:
                        break
                    result = measure("rate", job | {"folder": str(folder), "workers": workers}, work)
                    error = result.get("error")
                    results += [result] if number else []
                found.append({"way": way, "length": length, "workers": workers, "error": error, "results": results})
                error = error if not results else None
            shutil.rmtree(folder, ignore_errors=True)
    return found


def resumes(base, ways, work):
    """Seconds to the first batch, fresh and after nine tenths of a pass; whether it is the same batch."""
    length, found = 4096, []
    per_step = STEP_TOKENS // (length * LENGTHS[length])
    for way in ways:
        batches = base["tokens"] // (length * LENGTHS[length])
        skip = max(1, int(batches * 0.9) // per_step) * per_step
        job = base | {"way": way, "length": length, "sequences": LENGTHS[length], "workers": 0, "skip": skip}
        folder, error = written(way, job, work)
        job |= {"folder": str(folder), "state": str(work / "state.json")}
        straight = {"error": error} if error else measure("straight", job, work)
        resumed = straight if "error" in straight else measure("resumed", job, work)
        found.append({"way": way, "skip": skip, "straight": straight, "resumed": resumed})
        shutil.rmtree(folder, ignore_errors=True)
    return found


def memories(base, work):
    """lit-long's memory by corpus size, from the books that ship with the repository, copied end to end."""
    found = []
    small = prepared([BOOKS], str(TOKENIZER), work / "small")
    for megabytes in SIZES:
        folder = repeated(small["corpus"], work / "large", megabytes * 10**6)
        for way, workers in (
            ("lit-long, concat", 1), ("lit-long, best_fit", 1), ("lit-long, concat", 4), ("lit-long, best_fit", 4),
        ):  # fmt: skip
            job = base | {"way": way, "length": 32_768, "sequences": 1, "workers": workers, "corpus": str(folder)}
            result = measure("memory", job, work)
            found.append({"way": way, "workers": workers, "megabytes": megabytes} | result)
        shutil.rmtree(folder)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, nargs="+", default=[BOOKS], help="JSON lines (.zst or plain): text")
    parser.add_argument("--tokenizer", default=str(TOKENIZER), help="folder, Hub id or .gguf of a fast tokenizer")
    parser.add_argument("--corpus", help="a corpus that lit-long prepare wrote from that text; default: prepare it")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement of speed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--parts", nargs="+", choices=("rates", "resumes", "memories"), default=None)
    parser.add_argument("--output", type=Path, help="folder for data_load.md and data_load.json")
    parser.add_argument("--work", type=Path, help="folder for what is written; default: a temporary one")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        job = json.loads(args.job.read_text())
        kinds = MEASURES | {"write": lambda job: WAYS[job["way"]].write(job, Path(job["folder"])) or {}}
        args.result.write_text(json.dumps(kinds[args.measure](job)))
        return
    facts, found = machine(), versions(PACKAGES)
    warn_if_busy(facts)
    parts = args.parts or ("rates", "resumes", "memories")
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        base = prepared(args.text, args.tokenizer, work / "corpus", args.corpus) | {"seconds": args.seconds}
        data = {
            "machine": facts,
            "versions": found,
            "corpus": {key: base[key] for key in ("tokens", "documents")},
            "text": [path.name for path in args.text],
            "repeats": args.repeats,
            "rates": rates(base, args.ways, args.repeats, work) if "rates" in parts else [],
            "resumes": resumes(base, args.ways, work) if "resumes" in parts else [],
            "memories": memories(base, work) if "memories" in parts else [],
        }
    text = report(data)
    print(text)
    if args.output:
        write_results(args.output, "data_load", data, text)


if __name__ == "__main__":
    main()
