"""The tables of ``evaluation_speed.md``."""

from measured import environment_line

GOAL_SECONDS = 600
GOAL_LENGTH = 8192
FORWARD = ("lit-long", "transformers")
# what a whole run measures: (what, length)
WHOLE = [("forward", 2048), ("forward", 4096), ("forward", 8192), ("retrieval", 1024), ("retrieval", 2048)]
WHOLE += [("suite", GOAL_LENGTH)]


def report(data):
    """Markdown of all measurements."""
    found = {(m["what"], m["length"], m["way"]): m for m in data["measurements"] if "error" not in m}
    failed = [m for m in data["measurements"] if "error" in m]
    threads = data["threads"]
    lines = [
        "# Speed of the evaluation on a CPU",
        "",
        f"SmolLM2-135M-Instruct, float32, {threads} thread{'s' if threads > 1 else ''}. "
        + environment_line(data["machine"], data["versions"]),
        "",
        "Command: `OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/evaluation/speed.py MODEL --output "
        "benchmarks/results`. The machine is shared, so ratios are of CPU seconds, which other programs disturb least; "
        "wall seconds stand beside them. One measurement each. What each way does: "
        "`benchmarks/evaluation/speed_ways.py`.",
        *_forward(found),
        *_retrieval(found),
        *_suite(found, threads),
    ]
    there = {(what, length) for what, length, _ in found}
    if missing := [f"{what} at {length:,}" for what, length in WHOLE if (what, length) not in there]:
        lines += ["", f"Not measured yet: {', '.join(missing)}. The same command goes on with them."]
    if failed:
        lines += ["", "## What did not run", ""]
        lines += [f"- {m['what']} {m['way']}, {m['length']:,}: {m['error']}" for m in failed]
    return "\n".join([*lines, ""])


def _lengths(found, what):
    return sorted({length for kind, length, _ in found if kind == what})


def _forward(found):
    if not (lengths := _lengths(found, "forward")):
        return []
    lines = [
        "",
        "## Loss of one window",
        "",
        "lit-long: `position_nll`, logits of 1,024 tokens at a time. transformers: `model(ids, labels=ids)`. Memory is "
        "the most that the process held, weights (float32) and libraries included.",
        "",
        "| tokens | way | CPU s | wall s | memory, MiB | mean loss |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for length in lengths:
        for way in FORWARD:
            if m := found.get(("forward", length, way)):
                cells = [f"{length:,}", way, f"{m['seconds']['cpu']:.1f}", f"{m['seconds']['wall']:.1f}"]
                lines.append(f"| {' | '.join([*cells, format(m['memory']['own'], ','), format(m['loss'], '.5f')])} |")
    lines.append("")
    for length in lengths:
        pair = [found.get(("forward", length, way)) for way in FORWARD]
        if all(pair):
            speed = pair[1]["seconds"]["cpu"] / pair[0]["seconds"]["cpu"]
            memory = pair[0]["memory"]["own"] / pair[1]["memory"]["own"]
            lines.append(f"- {length:,}: {speed:.2f} x the speed of transformers, {memory:.2f} x its memory.")
    for way in FORWARD:
        own = [found[key] for n in lengths if (key := ("forward", n, way)) in found]
        if len(own) > 1:
            first, last = own[0], own[-1]
            growth = (last["memory"]["own"] - first["memory"]["own"]) / ((last["length"] - first["length"]) / 1024)
            span = f"from {first['length']:,} to {last['length']:,}"
            lines.append(f"- {way}: memory grows by {growth:,.0f} MiB for 1,024 tokens {span}.")
    lines.append("- For scale: logits of 1,024 tokens over the vocabulary of 49,152 are 192 MiB in float32.")
    return lines


def _retrieval(found):
    lines = []
    for length in _lengths(found, "retrieval"):
        of = {way: m for (what, n, way), m in found.items() if (what, n) == ("retrieval", length)}
        lines += [
            "",
            f"## Retrieval at {length:,} tokens",
            "",
            "Five numbers at five depths of one text, each asked for; the same prompts, token by token, for every way.",
            "",
            "| way | probes | CPU s a probe | wall s a probe | x the time of one reading | exact | agrees |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [_retrieval_row(way, m, of.get("one reading"), of.get("one forward each")) for way, m in of.items()]
    if lines:
        lines += [
            "",
            "One reading: `lit-long retrieve --tasks needles`, all five behind one prefill. One forward each: `--tasks "
            "needle` and all other tasks, without controls. lm-eval: `HFLM.generate_until` (greedy), stopped after the "
            "answer's tokens, or after 128 tokens as RULER's tasks are (on the first probes only, because it is slow). "
            "Exact: the answer, and nothing before it. Agrees: with one forward each, probe by probe.",
        ]
    return lines


def _retrieval_row(way, m, base, reference):
    ratio = f"{m['seconds']['cpu'] / base['seconds']['cpu']:.1f}" if base else "-"
    agree = "-"
    if reference:
        agree = f"{sum(a == b for a, b in zip(m['exact'], reference['exact'], strict=False))}/{m['probes']}"
    seconds = f"{m['seconds']['cpu']:.2f} | {m['seconds']['wall']:.2f}"
    return f"| {way} | {m['probes']} | {seconds} | {ratio} | {sum(m['exact'])}/{m['probes']} | {agree} |"


def _suite(found, threads):
    lines = []
    for length in _lengths(found, "suite"):
        m = found["suite", length, "quick"]
        own = m.get("threads", threads)
        cpu, wall, cores = m["seconds"]["cpu"], m["seconds"]["wall"], f"{own} core{'s' if own > 1 else ''}"
        judged = "**missed**"
        if cpu < GOAL_SECONDS:
            judged = "met" if wall < GOAL_SECONDS else "met in CPU seconds of one core, not by the clock of a busy one"
        lines += [
            "",
            f"## `lit-long evaluate --suite quick` at {length:,} tokens",
            "",
            f"{', '.join(m['tasks'])}: {cpu:.0f} CPU seconds, {wall:.0f} s by the clock on {cores}; "
            f"{m['memory']['own']:,} MiB at most. "
            + (f"Goal: under {GOAL_SECONDS} s on 2 cores: {judged}." if length >= GOAL_LENGTH else ""),
            "",
            "It measures 2 windows of loss by position with truncated contexts, five needles in one text at the whole "
            "and the half length, and three first sentences at 256 tokens and at a quarter of the length (2,048 at "
            "most): a first look, too few for intervals that say much. The other suites take 32 windows and four to "
            "twenty probes a cell.",
        ]
    return lines
