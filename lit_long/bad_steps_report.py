"""Say which documents were in a bad step: a line of ``bad_steps.jsonl`` with all of them, and the first few as text."""

import json
import math
from pathlib import Path
from typing import Any

NAMED = 3  # documents in the message


def report_bad_step(
    folder: Path, step: int, why: str, values: dict[str, float], data: Any, *, skipped: bool, write: bool
) -> tuple[str, str]:
    """Append the line, where ``write``.

    Args:
        folder: of the run.
        step: optimizer step, 0-based.
        why: what is wrong with it.
        values: loss, gradient norm, learning rate.
        data: a ``PretrainData``, which knows the documents of a step; anything else does not.
        skipped: whether the run goes on.
        write: False on all ranks but one.

    Returns:
        The file, and the first documents in words.
    """
    file = folder / "bad_steps.jsonl"
    documents = _documents(step, data)
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        line = {
            "step": step,
            "reason": why,
            "done": "skipped" if skipped else "stopped",
            **{name: value if math.isfinite(value) else str(value) for name, value in values.items()},
            "documents": documents,
        }
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
    if documents is None:
        return str(file), "not known (the data module has no step plan)"
    first = ", ".join(f"{d['source']}/{d['id']} [{d['begin']}:{d['end']}]" for d in documents[:NAMED])
    more = len(documents) - NAMED
    return str(file), first + (f" and {more} more" if more > 0 else "")


def _documents(step: int, data: Any) -> list[dict[str, Any]] | None:
    plan = getattr(data, "plan", None)
    if plan is None:
        return None
    found = []
    for row in plan.step(step):
        part = plan.parts[row.part]
        for document, begin, end in row.pieces.tolist():
            name = part.documents.corpus.document_id(document)
            found.append({"source": part.name, "id": name, "begin": begin, "end": end})
    return found
