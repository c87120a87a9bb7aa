"""The Markdown report of ``step.py``."""

from itertools import pairwise
from statistics import median

from measured import environment_line
from step_ways import WAYS

MEMORY = (
    "out of memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "MemoryError",
    "Cannot allocate",
    "bad_alloc",
)


def report(data):
    """Speed and memory by length, and what of the goals is met."""
    shape, rows = data["shape"], data["measurements"]
    lengths = sorted({row["length"] for row in rows})
    by = {(row["way"], row["length"]): row for row in rows}
    documents = ", ".join(f"{_first(rows, n)['documents']:.1f} at {n:,}" for n in lengths)
    lines = [
        "# One optimizer step on a CPU", "",
        f"{data['parameters'] / 1e6:.1f} M parameters (Llama shape: {shape['num_hidden_layers']} layers, hidden "
        f"{shape['hidden_size']}, {shape['num_attention_heads']} heads, {shape['num_key_value_heads']} key/value "
        f"heads, vocabulary {shape['vocab_size']:,}, tied), float32, AdamW, one row a step, no activation "
        f"checkpointing asked for. Documents in a row, mean: {documents}. "
        f"{environment_line(data['machine'], data['versions'])}", "",
        "Command: `python benchmarks/training/step.py --corpus CORPUS --output benchmarks/results`. What each way "
        "does: `benchmarks/training/step_ways.py`.", "",
        "## Tokens a second, median of the steps after the first", "",
        *_table(by, lengths, _speed), "",
        "## Most memory of the process, MiB", "",
        *_table(by, lengths, _memory), "",
        f"A process may have {max(row['limit_gib'] for row in rows):g} GiB; imports alone take some 600 MiB.", "",
        "## Loss of the first step", "",
        "The same weights and tokens: ways that keep documents apart must agree, and so must those that do not, which "
        "also count the first token of each document.", "",
        *_table(by, lengths, _loss), "",
        "## Goals", "",
        *_goals(by, lengths),
    ]  # fmt: skip
    failed = [f"- {row['way']}, {row['length']:,}: {_why(row)}" for row in rows if "error" in row]
    return "\n".join(lines + (["", "## What did not run", "", *failed] if failed else [])) + "\n"


def _first(rows, length):
    return next(row for row in rows if row["length"] == length)


def _table(by, lengths, cell):
    lines = [
        "| way | documents apart | " + " | ".join(f"{n:,}" for n in lengths) + " |",
        "|---|---|" + "---:|" * len(lengths),
    ]
    for way, (_, _, apart) in WAYS.items():
        if any((way, n) in by for n in lengths):
            cells = [cell(by[way, n]) if (way, n) in by else "" for n in lengths]
            lines.append(f"| {way} | {'yes' if apart else 'no'} | " + " | ".join(cells) + " |")
    return lines


def _why(row):
    return f"out of memory ({row['limit_gib']:g} GiB)" if any(w in row["error"] for w in MEMORY) else row["error"]


def _speed_of(row):
    return None if row is None or "error" in row else row["length"] / median(row["seconds"][1:])


def _speed(row):
    return _why(row) if "error" in row else f"{_speed_of(row):,.0f}"


def _memory(row):
    return "" if "error" in row else f"{row['peak_mib']:,.0f}"


def _loss(row):
    return "" if "error" in row or row["losses"][0] is None else f"{row['losses'][0]:.4f}"


def _goals(by, lengths):
    lines = []
    for length in lengths:
        ours = by.get(("lit-long", length))
        peers = {w: by.get((w, length)) for w in WAYS if not w.startswith("lit-long")}
        peers = {w: row for w, row in peers.items() if row is not None and "error" not in row}
        if ours is None or "error" in ours or not peers:
            lines.append(f"- {length:,}: no peer ran.")
            continue
        fastest = max(peers, key=lambda w: _speed_of(peers[w]))
        ratio, wanted = _speed_of(ours) / _speed_of(peers[fastest]), 1.0 if length < 8192 else 1.3
        text = f"- {length:,}: {ratio:.2f} x the speed of the fastest peer ({fastest})"
        text += f", goal {wanted}: {'met' if ratio >= wanted else '**missed**'}"
        apart = {w: row for w, row in peers.items() if WAYS[w][2]}
        if apart and fastest not in apart:
            best = max(apart, key=lambda w: _speed_of(apart[w]))
            text += (
                f"; {_speed_of(ours) / _speed_of(apart[best]):.2f} x the fastest that keeps documents apart ({best})"
            )
        leanest = min(peers, key=lambda w: peers[w]["peak_mib"])
        share = ours["peak_mib"] / peers[leanest]["peak_mib"]
        text += f"; {share:.2f} x the memory of the leanest ({leanest})"
        if length >= 16_384:
            text += f", goal 0.5: {'met' if share <= 0.5 else '**missed**'}"
        lines.append(text + ".")
    points = [
        (n, by["lit-long", n]["peak_mib"]) for n in lengths if "error" not in by.get(("lit-long", n), {"error": 1})
    ]
    if len(points) > 2:
        steps = [
            f"{(b - a) / (m - n) * 1024:.0f} MiB for 1,024 tokens from {n:,} to {m:,}"
            for (n, a), (m, b) in pairwise(points)
        ]
        lines.append(f"- lit-long's memory grows by {'; '.join(steps)}: linear if these are alike.")
    return lines
