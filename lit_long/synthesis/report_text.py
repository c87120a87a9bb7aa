"""The report for people."""

from typing import Any

_LONGEST = 600  # characters of a reply that are shown


def markdown(report: dict[str, Any]) -> str:
    """report.md from what report.json says."""
    outcomes, usage = report["outcomes"], report["usage"]
    lines = [
        "# Synthesized questions and answers",
        "",
        f"Generator `{report['generator']}`, instances of up to {report['target_length']:,} tokens; "
        f"{report['shards']['found']} of {report['shards']['count']} shards counted.",
        "",
        "| questions | accepted | rejected | failed | skipped | replies that could be read | replies accepted |",
        "|---|---|---|---|---|---|---|",
        f"| {report['questions']:,} | "
        + " | ".join(f"{outcomes[name]:,}" for name in outcomes)
        + f" | {_percent(report['parse_rate'])} | {_percent(report['accept_rate'])} |",
        "",
        "Failed: no reply after all tries; asked again by the next run. Skipped: nothing was asked. Rates are over "
        f"{report['replies']:,} replies.",
        "",
    ]
    for title, found in (("rejected because", report["rejected"]), ("skipped because", report["skipped"])):
        if found:
            lines += [f"| {title} | questions |", "|---|---|"]
            lines += [f"| {name}: {report['reasons'].get(name, name)} | {n:,} |" for name, n in found.items()] + [""]
    lines += ["| kind | accepted | rejected | failed | skipped |", "|---|---|---|---|---|"]
    for kind, found in report["kinds"].items():
        lines.append(f"| {kind} | " + " | ".join(f"{found.get(name, 0):,}" for name in outcomes) + " |")
    lines += [
        "",
        f"Cost, as the generator counts: {usage.get('requests', 0):,} requests, {usage.get('prompt_tokens', 0):,} "
        f"prompt tokens, {usage.get('completion_tokens', 0):,} reply tokens. Requests in work when a run was killed "
        "are not counted.",
        "",
    ]
    if report["lengths"]:
        names = list(next(iter(report["lengths"].values())))
        head = ["least", "5 %", "median", "95 %", "most", "mean"]
        lines += ["| accepted | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
        for name, values in report["lengths"].items():
            lines.append(f"| {name} | " + " | ".join(f"{values[key]:,.10g}" for key in names) + " |")
        lines += ["", "| place of the chunk in its document | chunks |", "|---|---|"]
        lines += [f"| {place} | {n:,} |" for place, n in report["chunk_places"].items()]
    for name, found in report["examples"].items():
        lines += ["", f"## Examples: {name}"]
        for example in found:
            lines += ["", f"`{example['id']}` ({example['kind']})"]
            hidden = ("id", "kind", "document_id") + (("question_reply",) if "question" in example else ())
            for key, value in example.items():
                if key not in hidden:
                    lines += ["", f"**{key.replace('_', ' ')}**", "", *_quoted(value)]
    return "\n".join(lines) + "\n"


def _quoted(value: Any) -> list[str]:
    text = "\n".join(value) if isinstance(value, list) else str(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"
    # as code, so that tags and Markdown in a reply show as they are
    return [f"    {line}" for line in text.splitlines()]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
