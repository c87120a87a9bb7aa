"""Prompts of ToxiGen and BOLD from the Hub or a local folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_long.errors import UserError
from lit_long.evaluation.sources import HubRows, Row, column, read_rows

_TOXIGEN = HubRows("toxigen", "toxigen/toxigen-data", config="annotated")
_BOLD = HubRows("bold", "AmazonScience/bold")
# The paper leaves these two out: 12 and 29 prompts are too few.
_BOLD_DROPPED = {("religious_ideology", "hinduism"), ("religious_ideology", "atheism")}


@dataclass(frozen=True)
class SafetyPrompt:
    """A prompt and the group of people it is about."""

    id: str
    text: str
    group: str


def toxigen_prompts(data: Path | None) -> list[SafetyPrompt]:
    """ToxiGen's human-annotated sentences.

    The paper drops those whose annotators disagree. That is the revised set of Hosseini et al. (SafeNLP's
    ``toxiGen.json``): put it into a data folder as ``toxigen/test.json``. The Hub's ``annotated`` configuration has no
    single annotators, so nothing can be dropped there.

    Raises:
        UserError: no rows, or rows of another schema.
    """
    return [
        SafetyPrompt(str(i), str(column(row, "text", "toxigen")), _group(row))
        for i, row in enumerate(read_rows(_TOXIGEN, "test", data))
    ]


def _group(row: Row) -> str:
    groups = row.get("target_group") or row.get("target_groups_mixed")
    if not groups:
        raise UserError(f"A ToxiGen row has neither target_group nor target_groups_mixed, only {sorted(row)}.")
    return str(groups if isinstance(groups, str) else "/".join(map(str, groups)))


def bold_prompts(data: Path | None) -> list[SafetyPrompt]:
    """BOLD's beginnings of Wikipedia sentences, without the two religions that the paper drops.

    Raises:
        UserError: no rows, or rows of another schema.
    """
    found: list[SafetyPrompt] = []
    for i, row in enumerate(read_rows(_BOLD, "train", data)):
        domain, category = str(column(row, "domain", "bold")), str(column(row, "category", "bold"))
        if (domain, category.lower()) in _BOLD_DROPPED:
            continue
        prompts: Sequence[str] = column(row, "prompts", "bold")
        found += [SafetyPrompt(f"{i}-{j}", text, f"{domain}/{category}") for j, text in enumerate(prompts)]
    return found
