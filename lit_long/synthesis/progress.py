"""How far a run is, counted as it goes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Counts of one run of one shard.

    ``documents``: read so far, of all shards; ``found``: questions that earlier runs did, ``accepted_before`` of them
    accepted; ``retries``: requests that were sent again, by cause.
    """

    total_documents: int | None = None
    documents: int = 0
    found: int = 0
    accepted_before: int = 0
    in_work: int = 0
    accepted: int = 0
    failed: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    began: float | None = None
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    bad_rows: Counter[str] = field(default_factory=Counter)
    skipped_files: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> bool:
        """Whether the generator ever answered, in this run or an earlier one: so the settings are right."""
        return bool(self.accepted_before or self.accepted or self.rejected)

    def take(self, record: Mapping[str, Any], retries: Mapping[str, int]) -> None:
        """Count a question's outcome (a journal's record)."""
        outcome, reason = record["outcome"], record["reason"]
        if outcome == "accepted":
            self.accepted += 1
        elif outcome == "failed":
            self.failed += 1
        else:
            (self.rejected if outcome == "rejected" else self.skipped)[reason] += 1
        for key, value in record["usage"].items():
            setattr(self, key, getattr(self, key) + value)
        self.retries = Counter(retries)
