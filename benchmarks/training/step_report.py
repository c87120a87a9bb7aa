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


KINDS = {"long": "Long documents: one a row", "packed": "Packed documents: many a row"}


def key_of(row):
    """What makes a measurement one: (kind of rows, length, way)."""
    return row["kind"], row["length"], row["way"]


def report(data):
    """Speed and memory by length, and what of the goals is met."""
    shape, rows = data["shape"], data["measurements"]
    busiest = max(row["load_before"] for row in rows)
    facts = data["machine"] | {"load_before": busiest}
    lines = [
        "# One optimizer step on a CPU", "",
        f"{data['parameters'] / 1e6:.1f} M parameters (Llama shape: {shape['num_hidden_layers']} layers, hidden "
        f"{shape['hidden_size']}, {shape['num_attention_heads']} heads, {shape['num_key_value_heads']} key/value "
        f"heads, vocabulary {shape['vocab_size']:,}, tied), float32, AdamW, one row a step, no activation "
        f"checkpointing asked for. {environment_line(facts, data['versions'], 'Load before a measurement, at most')}",
        "",
        "Command: `python benchmarks/training/step.py TEXTS --output benchmarks/results`. What each way does: "
        "`benchmarks/training/step_ways.py`. A process may have "
        f"{max(row['limit_gib'] for row in rows):g} GiB; imports alone take some 600 MiB.", "",
        f"The matrix products of a step by themselves run at {data['products']['flops_a_second'] / 1e9:.0f} GFLOP/s "
        "here: what no way can beat. Losses are those of the first and the last step: the same weights, tokens and "
        "optimizer, so ways that keep documents apart must agree, and so must those that do not, which also count the "
        "first token of each document.", "",
    ]  # fmt: skip
    for kind, title in KINDS.items():
        found = [row for row in rows if row["kind"] == kind]
        if found:
            lines += [f"## {title}", "", *_section(found, data["products"]["flops_a_second"]), ""]
    return "\n".join(lines[:-1]) + "\n"


def _section(rows, ceiling):
    lengths = sorted({row["length"] for row in rows})
    by = {(row["way"], row["length"]): row for row in rows}
    documents = ", ".join(f"{_first(rows, n)['documents']:.1f} at {n:,}" for n in lengths)
    failed = [f"- {row['way']}, {row['length']:,}: {_why(row)}." for row in rows if "error" in row]
    return [
        f"Documents in a row, mean: {documents}.", "",
        "Tokens a second, median of the steps after the first:", "",
        *_table(by, lengths, _speed), "",
        "Most memory of the process, MiB:", "",
        *_table(by, lengths, _memory), "",
        "Loss of the first and the last step:", "",
        *_table(by, lengths, _loss), "",
        *_goals(by, lengths, ceiling), *failed,
    ]  # fmt: skip


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
    return "" if "error" in row else f"{row['losses'][0]:.4f}, {row['losses'][-1]:.4f}"


def _share(row, ceiling):
    """Model FLOPs of the steps that count, as a share of what the matrix products alone could do."""
    return sum(row["flops"][1:]) / sum(row["seconds"][1:]) / ceiling


def _goals(by, lengths, ceiling):
    lines = []
    for length in lengths:
        ours = by.get(("lit-long", length))
        peers = {w: by.get((w, length)) for w in WAYS if not w.startswith("lit-long")}
        peers = {w: row for w, row in peers.items() if row is not None and "error" not in row}
        if ours is None or "error" in ours or not peers:
            lines.append(f"- {length:,}: no peer to compare with.")
            continue
        fastest = max(peers, key=lambda w: _speed_of(peers[w]))
        packed = ours["documents"] >= 2  # the goal of 1.3 is of packed documents
        ratio, wanted = _speed_of(ours) / _speed_of(peers[fastest]), 1.3 if packed and length >= 8192 else 1.0
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
        lines.append(f"{text}. lit-long at {_share(ours, ceiling):.0%} of the matrix products' speed.")
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
