"""What a question and a task are, whichever benchmark they come from."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lit_long.evaluation.long_qa.prompts import Layout


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: unique in its task.
        document: names the document it is about; questions on one document are one cluster in intervals.
        layout: the prompt in parts.
        references: right answers; empty where the labels are hidden.
    """

    id: str
    document: str
    layout: Layout
    references: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LongTask:
    """A task: how its questions are read, answered and scored.

    Attributes:
        name: ``suite/task``.
        metric: name in :data:`lit_long.evaluation.long_qa.metrics.METRICS`.
        new_tokens: most tokens of an answer.
        stop_at_newline: whether an answer is its first line (base models).
        prompt: template or description, kept in the report.
        read: reads the questions of a split from a data folder or (``None``) the Hub.
        split: the split that is measured.
        shots: examples in front of the question.
    """

    name: str
    metric: str
    new_tokens: int
    stop_at_newline: bool
    prompt: str
    read: Callable[[str, Path | None], list[Question]]
    split: str = "validation"
    shots: int = 0


def document_key(text: str) -> str:
    """A short name for a document's text."""
    return sha256(text.encode()).hexdigest()[:16]
