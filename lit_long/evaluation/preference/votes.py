"""Votes of human raters: read from their sheets, unblinded with the key, and counted with 95 % intervals.

The unit is the prompt: three raters of one prompt agree more than chance, so three votes are not three
observations. Each prompt gives the share of its raters who chose win, tie or loss; the interval is Student's t over
prompts. With one rater a prompt the shares are plain proportions, and Wilson's interval is used, which is right
near 0 and 1, too.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long.evaluation.intervals import cluster_estimate
from lit_long.evaluation.preference.sheets import KEY_FORMAT

OUTCOMES = ("win", "tie", "loss")
_VOTES = {"1": 1, "2": 2, "tie": 0, "0": 0}
_Z = 1.959963984540054

# Fig. 3: Llama 2 Long Chat 70B against others, win / tie / loss in %
PAPER = {
    "MPT-30B-chat": (53.3, 28.7, 18.1),
    "GPT-3.5-turbo-16k": (35.8, 31.5, 32.8),
    "Claude-2-100k": (38.9, 29.4, 31.7),
    "GPT-4": (25.0, 30.0, 45.0),
}


@dataclass(frozen=True)
class Share:
    """A share in percent with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Preference:
    """How often the first model was preferred to the second.

    Attributes:
        models: names of the two models.
        shares: win, tie and loss of the first one.
        prompts: prompts with at least one vote.
        votes: votes in all.
        unrated: rows that raters left empty.
        unanimous: share of prompts with several votes whose raters all agree, in percent; ``None`` without such.
        interval: how the intervals were made.
    """

    models: tuple[str, str]
    shares: dict[str, Share]
    prompts: int
    votes: int
    unrated: int
    unanimous: float | None
    interval: str


def import_votes(folder: Path, sheets: Sequence[Path] | None = None) -> Preference:
    """Count the votes of a folder that :func:`lit_long.evaluation.preference.sheets.export_sheets` made.

    Args:
        folder: has the key.
        sheets: the raters' files; default: the folder's ``rater-*.csv``, or ``.jsonl`` where that one has votes.

    Raises:
        UserError: no key, a sheet of another export, an unknown word in ``better``, an item twice, or no votes.
    """
    key_file = folder / "key.json"
    if not key_file.is_file():
        raise UserError(f"{folder} has no key.json; give the folder that 'lit-long preference export' made.")
    key = json.loads(key_file.read_text(encoding="utf-8"))
    if key.get("format") != KEY_FORMAT:
        raise UserError(f"{key_file} is of format {key.get('format')}, not {KEY_FORMAT}: another version of lit-long.")
    places = {item: place for sheet in key["sheets"].values() for item, place in sheet.items()}
    votes: dict[str, str] = {}
    for path in sheets or sorted(folder.glob("rater-*.csv")) + sorted(folder.glob("rater-*.jsonl")):
        for item, vote in _rated(path).items():
            if item not in places:
                raise UserError(f"{path}: item '{item}' is not in {key_file}; the sheet is of another export.")
            if not vote:
                continue
            if votes.setdefault(item, vote) != vote:
                raise UserError(f"{path}: item '{item}' was rated '{votes[item]}' in another file and '{vote}' here.")
    outcomes: dict[str, list[str]] = {}
    for item, vote in votes.items():
        if vote not in _VOTES:
            raise UserError(f"Item '{item}' is rated '{vote}'; allowed are 1, 2 and tie.")
        place = places[item]
        outcomes.setdefault(place["id"], []).append(_outcome(_VOTES[vote], place["swapped"]))
    if not outcomes:
        raise UserError(f"The sheets of {folder} hold no votes yet: raters fill the column 'better' with 1, 2 or tie.")
    first, second = key["models"]
    return count(outcomes, (first, second), unrated=len(places) - len(votes))


def count(outcomes: Mapping[str, Sequence[str]], models: tuple[str, str], *, unrated: int = 0) -> Preference:
    """Shares of win, tie and loss from the outcomes of each prompt's raters."""
    several = [votes for votes in outcomes.values() if len(votes) > 1]
    single = not several
    return Preference(
        models=models,
        shares={outcome: (_wilson if single else _mean)(outcome, outcomes) for outcome in OUTCOMES},
        prompts=len(outcomes),
        votes=sum(map(len, outcomes.values())),
        unrated=unrated,
        unanimous=100 * sum(len(set(votes)) == 1 for votes in several) / len(several) if several else None,
        interval="Wilson" if single else "Student's t over prompts",
    )


def _outcome(vote: int, swapped: bool) -> str:
    if vote == 0:
        return "tie"
    return "win" if (vote == 1) != swapped else "loss"


def _mean(outcome: str, outcomes: Mapping[str, Sequence[str]]) -> Share:
    shares = [100 * Counter(votes)[outcome] / len(votes) for votes in outcomes.values()]
    estimate = cluster_estimate(torch.tensor(shares).double(), torch.arange(len(shares)))
    if estimate.low is None or estimate.high is None:
        return Share(estimate.mean, 0.0, 100.0)  # one prompt says nothing about others
    return Share(estimate.mean, max(0.0, estimate.low), min(100.0, estimate.high))


def _wilson(outcome: str, outcomes: Mapping[str, Sequence[str]]) -> Share:
    n = len(outcomes)
    p = sum(votes[0] == outcome for votes in outcomes.values()) / n
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Share(100 * p, 100 * max(0.0, middle - half), 100 * min(1.0, middle + half))


def _rated(path: Path) -> dict[str, str]:
    """Item -> word in ``better``, lower case, empty where nothing was filled in."""
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    text = path.read_text(encoding="utf-8-sig")
    rows: list[dict[str, Any]]
    try:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            # spreadsheets of some countries write semicolons
            separator = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
        found: dict[str, str] = {}
        for row in rows:
            if row["item"] in found:
                raise UserError(f"{path}: item '{row['item']}' is there twice.")
            found[row["item"]] = str("" if row["better"] is None else row["better"]).strip().lower()
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is no sheet of an export: it needs the columns 'item' and 'better'.") from error
    return found


def to_json(preference: Preference) -> dict[str, Any]:
    """Plain values."""
    shares = {name: {"share": s.value, "low": s.low, "high": s.high} for name, s in preference.shares.items()}
    facts = {name: getattr(preference, name) for name in ("prompts", "votes", "unrated", "unanimous", "interval")}
    return {"schema": "lit-long/preference/1", "models": list(preference.models), **facts, **shares}


def markdown(preference: Preference) -> str:
    """A table beside the paper's Fig. 3."""
    first, second = preference.models
    cells = [f"{s.value:.1f} [{s.low:.1f}, {s.high:.1f}]" for s in preference.shares.values()]
    agreement = "" if preference.unanimous is None else f"; all raters agree on {preference.unanimous:.1f} % of prompts"
    return "\n".join(
        [
            f"# {first} against {second}",
            "",
            "| | win | tie | loss |",
            "|---|---|---|---|",
            f"| {first} vs {second}, % | {' | '.join(cells)} |",
            *(
                f"| paper (Fig. 3): Llama 2 Long Chat 70B vs {name} | {' | '.join(map(str, values))} |"
                for name, values in PAPER.items()
            ),
            "",
            f"{preference.votes:,} votes on {preference.prompts:,} prompts, {preference.unrated:,} rows unrated"
            f"{agreement}. 95 % intervals: {preference.interval}.",
            "",
        ]
    )
