"""What came of the questions, over all shards in the output folder: report.json, and report.md with examples."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lit_long.data.corpus_writer import write_json
from lit_long.synthesis.config import SynthesizeConfig
from lit_long.synthesis.journal import FOLDER, Record, journals, read
from lit_long.synthesis.progress import Progress
from lit_long.synthesis.replies import REASONS
from lit_long.synthesis.report_text import markdown

_EXAMPLES = {"accepted": 3, "rejected": 2, "failed": 2}
_UNREAD = ("empty_reply", "no_tags", "no_question", "no_answer", "several_pairs", "empty_question", "empty_answer",
           "cut_off", "refused")  # fmt: skip
_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def write_report(config: SynthesizeConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Count the journals in the output folder and write ``report.json`` and ``report.md`` there.

    Args:
        config: of the run.
        progress: of this process, for what is in no journal (bad rows, retries); None: left out.
    """
    output = Path(config.output)
    report = count(_records(output))
    report["generator"], report["target_length"] = config.generator_name, config.target_length
    report["shards"] = {"count": config.shard.count, "found": len(journals(output / FOLDER))}
    if progress is not None:
        report["this_run"] = {
            "shard": config.shard.index,
            "done_before": progress.found,
            "retries": dict(progress.retries),
            "bad_rows": dict(progress.bad_rows),
            "skipped_files": dict(progress.skipped_files),
        }
    write_json(output / "report.json", report)
    unfinished = output / ".report.md.tmp"
    unfinished.write_text(markdown(report), encoding="utf-8")
    unfinished.replace(output / "report.md")
    return report


def count(records: Iterable[Record]) -> dict[str, Any]:
    """Counts, rates, lengths, costs and examples of journal records."""
    outcomes: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, Counter[str]] = {"rejected": Counter(), "skipped": Counter()}
    lengths: dict[str, list[float]] = defaultdict(list)
    places: Counter[int] = Counter()
    usage: Counter[str] = Counter()
    examples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        outcome, reason = record["outcome"], record["reason"]
        outcomes[outcome] += 1
        kinds[record["kind"]][outcome] += 1
        usage.update(record["usage"])
        if outcome in reasons:
            reasons[outcome][reason] += 1
        name = reason if outcome == "rejected" else outcome
        if outcome in _EXAMPLES and len(examples[name]) < _EXAMPLES[outcome]:
            examples[name].append(_example(record))
        if outcome == "accepted":
            detail = record["detail"]
            lengths["tokens of an instance"].append(detail["total_tokens"])
            lengths["tokens of its document"].append(detail["kept_tokens"])
            lengths["words of the question"].append(len(detail["question"].split()))
            lengths["words of the answer"].append(len(detail["answer"].split()))
            for start, end in zip(detail["chunk_token_start"], detail["chunk_token_end"], strict=True):
                lengths["tokens of a chunk"].append(end - start)
                middle = (start + end) / 2 / max(detail["kept_tokens"], 1)
                places[min(int(middle * 5), 4)] += 1
    replied = outcomes["accepted"] + outcomes["rejected"] - reasons["rejected"]["prompt_too_long"]
    read_ = replied - sum(reasons["rejected"][reason] for reason in _UNREAD)
    return {
        "questions": sum(outcomes.values()),
        "outcomes": {name: outcomes[name] for name in ("accepted", "rejected", "failed", "skipped")},
        "rejected": dict(reasons["rejected"].most_common()),
        "skipped": dict(reasons["skipped"].most_common()),
        "replies": replied,
        "parse_rate": _share(read_, replied),
        "accept_rate": _share(outcomes["accepted"], replied),
        "kinds": {kind: dict(found) for kind, found in sorted(kinds.items())},
        "usage": dict(usage),
        "lengths": {name: _quantiles(values) for name, values in lengths.items()},
        "chunk_places": {f"{20 * i}-{20 * i + 20} %": places[i] for i in range(5)},
        "reasons": {reason: REASONS[reason] for reason in reasons["rejected"]},
        "examples": dict(examples),
    }


def _records(output: Path) -> Iterable[Record]:
    for path in journals(output / FOLDER):
        for _, record in read(path):
            yield record


def _example(record: Record) -> dict[str, Any]:
    keep = ("question", "answer", "quotes", "question_reply", "critique_reply", "closed_book_reply", "document_id")
    detail = {key: record["detail"][key] for key in keep if record["detail"].get(key)}
    if record["outcome"] == "failed":
        detail["error"] = record["reason"]
    return {"id": record["key"], "kind": record["kind"]} | detail


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"{q:g}": ordered[min(math.ceil(q * len(ordered)), len(ordered)) - 1 if q else 0] for q in _QUANTILES} | {
        "mean": round(sum(ordered) / len(ordered), 1)
    }
