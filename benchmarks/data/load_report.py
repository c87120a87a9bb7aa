"""The Markdown report of ``load.py``."""

from measured import environment_line, spread

PACKAGES = ("lit-long", "datasets", "litdata", "datatrove", "torch", "pyarrow", "numpy")
# The fastest training measured here: benchmarks/results/quickstart.md (3.0 M parameters, float32, 2 cores).
FASTEST_TRAINING = 3300
TRAINING_SOURCE = (
    "3,300 tokens/s: the quickstart's model of 3.0 M parameters on 2 cores, quickstart.md beside this file"
)


def report(data):
    """All three tables."""
    corpus = data["corpus"]
    lines = [
        "# Loading: tokens to shuffled batches of tensors", "",
        f"{corpus['tokens']:,} tokens in {corpus['documents']:,} documents ({', '.join(data['text'])}), read from the "
        f"page cache; {data['repeats']} rounds, median (least to greatest). "
        f"{environment_line(data['machine'], data['versions'])}", "",
        f"Command: `python benchmarks/data/load.py --text {' '.join(data['text'])} --repeats {data['repeats']}`", "",
    ]  # fmt: skip
    for key, part in (("rates", _rates), ("resumes", _resumes), ("memories", _memories)):
        if data[key]:
            lines += [*part(data[key]), ""]
    return "\n".join(lines)


def _rates(rates):
    lines = [
        "## Speed", "",
        "lit-long's batches carry positions that restart at each document, `cu_seqlens` and exact targets; the peers' "
        "carry ids and labels and know nothing of documents. lit-long's workers are threads, the peers' are processes. "
        f"The last column is the speed over that of the fastest training measured here ({TRAINING_SOURCE}).", "",
        "| tokens in a sequence | way | workers | million tokens/s | first batch, s | own memory, MiB "
        "| with mapped files, MiB | over the fastest training |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    failed = []
    for entry in rates:
        head = f"| {entry['length']:,} | {entry['way']} | {entry['workers']} |"
        if not entry["results"] or entry["error"]:
            lines.append(head + " |" * 5)
            failed.append(f"`{entry['way']}`, {entry['workers']} workers, {entry['length']:,}: {entry['error']}.")
            continue
        results = entry["results"]
        first = spread([r["first_batch"] for r in results])["median"]
        speed = spread([result["tokens_per_second"] for result in results])
        lines.append(
            f"{head} {speed['median'] / 1e6:,.1f} ({speed['min'] / 1e6:,.1f} to {speed['max'] / 1e6:,.1f}) "
            f"| {first:.2f} | {max(r['memory']['own'] for r in results):,} "
            f"| {max(r['memory']['with_files'] for r in results):,} | {speed['median'] / FASTEST_TRAINING:,.0f} |"
        )
    return lines + (["", *failed] if failed else [])


def _resumes(resumes):
    lines = [
        "## Resuming", "",
        "Sequences of 4,096, 8 in a batch, no workers; seconds from opening to the first batch (imports left out), "
        "fresh and after nine tenths of a pass. lit-long's time does not depend on the place "
        "(`data_startup.md`: step 100,000 of 10^12 tokens); the sampler of torch draws the whole pass again.", "",
        "| way | batches before | fresh, s | resumed, s | going there without resuming, s | the same batch |",
        "|---|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for entry in resumes:
        straight, resumed = entry["straight"], entry["resumed"]
        if "error" in straight or "error" in resumed:
            lines.append(f"| {entry['way']} | {entry['skip']:,} | | | | {resumed.get('error', '')} |")
            continue
        lines.append(
            f"| {entry['way']} | {entry['skip']:,} | {straight['first_batch']:.3f} | {resumed['first_batch']:.3f} "
            f"| {straight['seconds_to_place']:.2f} | {'yes' if straight['digest'] == resumed['digest'] else '**no**'} |"
        )
    return lines


def _memories(memories):
    lines = [
        "## Memory by corpus size", "",
        "One pass in sequences of 32,768; what the loader adds to the process, in MiB: its own, and pages of mapped "
        "files, which the system takes back when it wants memory.", "",
        "| corpus, MB of tokens | way | workers | own | mapped files | seconds of the pass |",
        "|---:|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for entry in memories:
        head = f"| {entry['megabytes']:,} | {entry['way']} | {entry['workers']} |"
        if "error" in entry:
            lines.append(f"{head} {entry['error']} | | |")
        else:
            lines.append(f"{head} {entry['own']:.1f} | {entry['files']:.1f} | {entry['seconds']:.2f} |")
    return lines
