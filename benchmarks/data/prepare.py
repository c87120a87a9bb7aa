"""Raw text to tokens on the disk: lit-long, the bare Rust tokenizer, and peers, on the same text and cores.

    python benchmarks/data/prepare.py [--text FILE ...] [--tokenizer FOLDER] [--repeats 5] [--output benchmarks/results]

Peers (optional; one that is missing leaves its line empty): ``pip install litdata datatrove[processing] orjson``;
``datasets`` and ``transformers`` are lit-long's own needs. What each does is in ``prepare_peers.py``.

The text is cut once, before anything is timed, into JSON-lines files of about equal size, as peers divide work by
files. Each measurement is a process of its own with an empty output folder; all ways are run once per round, in an
order that changes from round to round, so that a change of the machine meets all alike. The first round only warms the
page cache and is not counted.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import environment_line, machine, run_alone, spread, versions, warn_if_busy, write_results
from prepare_peers import BARE, RUN_CLM_BLOCK, WAYS

BOOKS = Path(__file__).parents[2] / "recipes/assets/quickstart/books.jsonl.zst"
TOKENIZER = Path(__file__).parents[2] / "recipes/assets/quickstart/base"
PACKAGES = ("lit-long", "tokenizers", "transformers", "datasets", "litdata", "datatrove", "torch", "pyarrow", "numpy")


def split_text(sources, folder, files, megabytes):
    """The first ``megabytes`` of documents of each source over ``files`` JSON-lines files of about equal size.

    A document of more than a quarter of a file would decide the time alone: where a limit is set, it is left out.
    """
    import io

    import zstandard

    folder.mkdir(parents=True)
    paths = [folder / f"text-{number:03d}.jsonl" for number in range(files)]
    sizes, documents, characters = [0] * files, 0, 0
    outputs = [path.open("w", encoding="utf-8") for path in paths]
    for source in sources:
        opener = zstandard.open(source, "rb") if source.suffix == ".zst" else source.open("rb")
        with io.TextIOWrapper(opener, encoding="utf-8", newline="\n") as lines:
            own = 0
            for line in lines:
                if own > megabytes * 1e6:
                    break
                row = json.loads(line)
                if len(row["text"]) > megabytes * 1e6 * len(sources) / files / 4:
                    continue
                own += len(row["text"])
                least = sizes.index(min(sizes))
                text = json.dumps({"text": row["text"], "id": f"{source.name}:{documents}"}, ensure_ascii=False) + "\n"
                outputs[least].write(text)
                sizes[least] += len(text)
                documents += 1
                characters += len(row["text"])
    for output in outputs:
        output.close()
    paths = [path for path in paths if path.stat().st_size]
    return [str(path) for path in paths], {
        "documents": documents,
        "characters": characters,
        "bytes": sum(path.stat().st_size for path in paths),
        "files": len(paths),
        "names": [source.name for source in sources],
    }


def save_tokenizer(name, folder):
    """Any fast tokenizer as a folder that every way can read."""
    from lit_long.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(name)
    tokenizer.save_pretrained(folder)
    return {
        "tokenizer": str(folder),
        "eos": tokenizer.eos_token_id,
        "eos_token": tokenizer.eos_token,
        "vocabulary": len(tokenizer),
    }


def measure_all(job, work, ways, repeats):
    """Way -> its measurements, in rounds of changing order; the first round is not kept."""
    found = {name: [] for name in ways}
    for number in range(repeats + 1):
        first = number % len(ways)
        for name in ways[first:] + ways[:first]:
            if any("error" in result for result in found[name]):
                continue
            output = work / "output"
            (work / "job.json").write_text(json.dumps(job | {"output": str(output)}))
            environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work / "hf"), "OMP_NUM_THREADS": "1"}
            result = run_alone(__file__, ["--measure", name, "--job", work / "job.json"], environment=environment)
            shutil.rmtree(output, ignore_errors=True)
            if number or "error" in result:
                found[name].append(result)
            print(f"round {number} {name}: {json.dumps(result)}", file=sys.stderr)
    return found


def summary(found, characters):
    """One line per way: tokens/s, wall seconds, memory, tokens lost."""
    rows = []
    for name, results in found.items():
        if any("error" in result for result in results):
            rows.append({"way": name, "error": next(r["error"] for r in results if "error" in r)})
            continue
        # of its own tokens before grouping, or dropping the tail would look slow as well
        given = [result.get("tokens_before_grouping", result["tokens"]) for result in results]
        rows.append(
            {
                "way": name,
                "tokens_per_second": spread([n / r["seconds"] for n, r in zip(given, results, strict=True)]),
                "characters_per_second": spread([characters / r["seconds"] for r in results]),
                "wall_seconds": spread([result["wall"] for result in results]),
                "cpu_seconds": spread([result["cpu"] for result in results]),
                "own_mib": max(result["memory"]["own"] for result in results),
                "with_files_mib": max(result["memory"]["with_files"] for result in results),
                "processes": max(result["memory"]["processes"] for result in results),
                "tokens": results[0]["tokens"],
                "tokens_tokenised": given[0],
                "documents": results[0]["documents"],
            }
        )
    return rows


def table(rows, text, facts, found, command, repeats):
    """The Markdown report."""
    good = {row["way"]: row for row in rows if "error" not in row}
    bare = max((good[name]["tokens_per_second"]["median"] for name in BARE if name in good), default=None)
    most = max((row["tokens_tokenised"] for row in good.values()), default=0)
    lines = [
        "# Preparing: raw text to tokens on the disk", "",
        f"{text['documents']:,} documents, {text['characters']:,} characters, {text['bytes']:,} bytes of JSON lines in "
        f"{text['files']} files; {facts['cores']} cores for every way; {repeats} rounds, median (least to greatest). "
        f"{environment_line(facts, found)}", "", f"Command: `{command}`", "",
        "| way | million tokens/s | share of the fastest bare tokenizer | seconds of the whole process "
        "| CPU seconds | own memory, MiB | with mapped files, MiB | processes | documents | tokens written "
        "| tokens lost |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['way']} |" + " |" * 10)
            continue
        rate, wall = row["tokens_per_second"], row["wall_seconds"]
        share = f"{rate['median'] / bare:.1%}" if bare else ""
        lines.append(
            f"| {row['way']} | {rate['median'] / 1e6:.3f} ({rate['min'] / 1e6:.3f} to {rate['max'] / 1e6:.3f}) "
            f"| {share} | {wall['median']:.1f} ({wall['min']:.1f} to {wall['max']:.1f}) "
            f"| {row['cpu_seconds']['median']:.1f} | {row['own_mib']:,} | {row['with_files_mib']:,} "
            f"| {row['processes']} | {row['documents']:,} | {row['tokens']:,} "
            f"| {most - row['tokens']:,} |"
        )
    lines += [
        "", "The bare tokenizer encodes text that is in memory, reads and writes nothing, and has no start-up in its "
        "time; others read JSON lines and write. Tokens/s leave the imports out, the seconds of the whole process have "
        "them; CPU seconds are those of all its processes together, median. "
        "Lost tokens of `datasets` are the tails that grouping drops, one for every 1,000 documents. Memory is the "
        "peak over all processes; lit-long also checks every document, names bad ones, hashes what it writes and can "
        "be killed and restarted, which the peers' settings here do not.",
        *(f"\n`{row['way']}` did not run: {row['error']}." for row in rows if "error" in row),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, nargs="+", default=[BOOKS], help="JSON lines (.zst or plain): text")
    parser.add_argument("--tokenizer", default=str(TOKENIZER), help="folder, Hub id or .gguf of a fast tokenizer")
    parser.add_argument("--files", type=int, default=16, help="files that the text is cut into")
    parser.add_argument("--megabytes", type=float, default=math.inf, help="millions of characters of each text")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--output", type=Path, help="folder for data_prepare.md and data_prepare.json")
    parser.add_argument("--work", type=Path, help="folder for the text and what is written; default: a temporary one")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        args.result.write_text(json.dumps(WAYS[args.measure](json.loads(args.job.read_text()))))
        return
    facts, found = machine(), versions(PACKAGES)
    warn_if_busy(facts)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        files, text = split_text(args.text, work / "text", args.files, args.megabytes)
        job = save_tokenizer(args.tokenizer, work / "tokenizer")
        job |= {"files": files, "cores": facts["cores"], "block": RUN_CLM_BLOCK}
        measurements = measure_all(job, work, args.ways, args.repeats)
    rows = summary(measurements, text["characters"])
    names = " ".join(path.name for path in args.text)
    limit = "" if math.isinf(args.megabytes) else f" --megabytes {args.megabytes:g}"
    command = f"python benchmarks/data/prepare.py --text {names}{limit} --repeats {args.repeats}"
    report = table(rows, text, facts, found, command, args.repeats)
    print(report)
    if args.output:
        data = {"machine": facts, "versions": found, "text": text, "summary": rows, "measurements": measurements}
        write_results(args.output, "data_prepare", data, report)


if __name__ == "__main__":
    main()
