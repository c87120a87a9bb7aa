"""The Markdown report of ``gpu.py``; what was not measured is an empty cell."""

from measured import environment_line


def report(data):
    """All four tables."""
    parts = data["parts"]
    where = "**Not measured: no GPU was lent.** The cells are empty until one is."
    if data["device"]:
        where = f"{data['device']}. {environment_line(data['machine'], data['versions'])}"
    lines = [
        "# Training on one GPU", "",
        ("Shapes too small to mean anything (`--tiny`). " if data.get("tiny") else "") + where, "",
        "Command: `python benchmarks/training/gpu.py --output benchmarks/results`. Random weights and tokens; packed "
        "documents have lognormal lengths. MFU: model FLOPs by the lengths of the documents (`lit_long.flops`), "
        "without what is computed again, over 989.5 TFLOP/s.", "",
        "## a. Llama-3.2-3B shape, all weights, 32,768 tokens (goal: 55 % MFU)", "",
        "| levers | tokens/s | MFU | memory, GiB | goal |", "|---|---:|---:|---:|---|",
        *(_step(name, parts.get("a", {}).get(name)) for name in ("chosen levers", "selective", "compiled")), "",
        "## b. Llama-3-8B shape: the longest sequence that trains (goal: 500,000 tokens)", "",
        "| trained | longest, tokens | memory, GiB | levers | goal |", "|---|---:|---:|---|---|",
        *(_longest(kind, parts.get("b", {})) for kind in ("lora", "full")), "",
        "## c. Attention, forward and backward, as a share of the measured rate of matrix products", "",
        *_kernels(parts.get("c", {})), "",
        "## d. A 1B shape beside peers", "",
        "| tokens | way | tokens/s | memory, GiB |", "|---:|---|---:|---:|",
        *_peers(parts.get("d", {})),
    ]  # fmt: skip
    failed = [
        f"- {part} {name}: {row['error']}"
        for part, rows in parts.items()
        for name, row in rows.items()
        if "error" in row
    ]
    return "\n".join(lines + (["", "## What did not run", "", *failed] if failed else [])) + "\n"


def _step(name, row):
    if row is None or "error" in row:
        return f"| {name} | | | | |"
    mfu = row["mfu"]
    goal = "" if mfu is None else "met" if mfu >= 0.55 else "**missed**"
    share = "" if mfu is None else f"{mfu:.1%}"
    rate, memory = row["tokens_per_second"], row["peak_memory_gib"]
    return f"| {name}: {row['levers']} | {rate:,.0f} | {share} | {memory:.1f} | {goal} |"


def _longest(kind, rows):
    fits = {int(n.split()[1]): row for n, row in rows.items() if n.startswith(f"{kind} ") and "error" not in row}
    if not fits:
        return f"| {kind} | | | | |"
    length = max(fits)
    goal = "met" if length >= 500_000 else "**missed**"
    return f"| {kind} | {length:,} | {fits[length]['peak_memory_gib']:.1f} | {fits[length]['levers']} | {goal} |"


def _kernels(rows):
    names = ("varlen", "flash_attn_4", "flash_attn_3", "flash_attn_2", "cudnn", "sdpa")
    lines = [
        "| tokens | documents | matrix products, TFLOP/s | " + " | ".join(names) + " |",
        "|---:|---:|---:|" + "---:|" * len(names),
    ]
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"| {name} |" + " |" * (len(names) + 2))
            continue
        rate = row["matmul_tflops_per_second"]
        cells = [row["backends"].get(n, {}) for n in names]
        shares = [f"{cell['tflops_per_second'] / rate:.0%}" if "tflops_per_second" in cell else "" for cell in cells]
        lines.append(f"| {row['job']['length']:,} | {row['documents']} | {rate:.2f} | " + " | ".join(shares) + " |")
    return lines


def _peers(rows):
    for name, row in rows.items():
        way, _, length = name.rpartition(" ")
        if "error" in row:
            yield f"| {int(length):,} | {way} | | |"
            continue
        memory = "" if row["peak_memory_gib"] is None else f"{row['peak_memory_gib']:.1f}"
        yield f"| {int(length):,} | {way} | {row['tokens_per_second']:,.0f} | {memory} |"
