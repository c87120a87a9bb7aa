"""Blind, randomised sheets of answer pairs for human raters, and the key that says which answer is whose.

Each rater gets the prompts in an order of their own, and for every prompt the two answers in an order of its own,
so that neither place nor sequence tells the models apart. Names of models are only in ``key.json``: keep it from
raters.
"""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_long.errors import UserError

COLUMNS = ("item", "prompt", "answer_1", "answer_2", "better")
KEY_FORMAT = 1
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Pair:
    """A prompt with the answers of two models."""

    id: str
    prompt: str
    first: str
    second: str


def read_pairs(first: Path, second: Path) -> list[Pair]:
    """Pairs from two files of answers: JSON lines with ``id``, ``prompt`` and ``answer``.

    Raises:
        UserError: a file is missing or of another schema, or the two were not made for the same prompts.
    """
    ours, theirs = _answers(first), _answers(second)
    if ours.keys() != theirs.keys():
        lonely = sorted(ours.keys() ^ theirs.keys())
        raise UserError(
            f"{first} and {second} do not answer the same prompts: {len(lonely)} ids are in one only, such as "
            f"{lonely[:3]}. A preference needs both answers to every prompt."
        )
    for id in ours:
        if ours[id][0] != theirs[id][0]:
            raise UserError(f"The prompt '{id}' differs between {first} and {second}; raters can see one only.")
    return [Pair(id, prompt, answer, theirs[id][1]) for id, (prompt, answer) in ours.items()]


def _answers(path: Path) -> dict[str, tuple[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give JSON lines with 'id', 'prompt' and 'answer'.")
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            id, prompt, answer = str(row["id"]), str(row["prompt"]), str(row["answer"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not a JSON object with 'id', 'prompt' and 'answer'.") from error
        if id in found:
            raise UserError(f"{path}, line {number}: the id '{id}' is there twice.")
        found[id] = (prompt, answer)
    if not found:
        raise UserError(f"{path}: no answers in it.")
    return found


def export_sheets(pairs: Sequence[Pair], names: tuple[str, str], output: Path, *, raters: int, seed: int) -> list[Path]:
    """Write a sheet for each rater, the key, and instructions.

    Args:
        pairs: prompts with two answers.
        names: of the two models.
        output: folder for ``rater-1.csv`` ..., ``rater-1.jsonl`` ..., ``key.json`` and ``instructions.md``.
        raters: sheets to write; the paper has three raters a prompt.
        seed: of every order.

    Raises:
        UserError: there is a key already, whose sheets may be with raters.
    """
    if (output / "key.json").exists():
        raise UserError(
            f"{output} has a key already; sheets that raters may hold would lose their meaning. Give another --output."
        )
    if raters < 1:
        raise UserError(f"--raters {raters}: must be at least 1.")
    output.mkdir(parents=True, exist_ok=True)
    draw, key, files = random.Random(seed), {}, []
    for rater in range(1, raters + 1):
        rows, swapped = [], {}
        for number, pair in enumerate(draw.sample(pairs, len(pairs)), start=1):
            item, swap = f"{rater}-{number}", draw.random() < 0.5
            answers = (pair.second, pair.first) if swap else (pair.first, pair.second)
            rows.append({"item": item, "prompt": pair.prompt, "answer_1": answers[0], "answer_2": answers[1]})
            swapped[item] = {"id": pair.id, "swapped": swap}
        key[f"rater-{rater}"] = swapped
        files += [_csv(output / f"rater-{rater}.csv", rows), _jsonl(output / f"rater-{rater}.jsonl", rows)]
    content = {"format": KEY_FORMAT, "models": names, "seed": seed, "prompts": len(pairs), "sheets": key}
    files += [output / "instructions.md", output / "key.json"]
    files[-2].write_text(_INSTRUCTIONS, encoding="utf-8")
    files[-1].write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return files


def _csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # with a BOM spreadsheets read it as UTF-8
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        # A leading apostrophe: a spreadsheet would run an answer that begins like a formula.
        writer.writerows({k: f"'{v}" if v.startswith(_FORMULA) else v for k, v in row.items()} for row in rows)
    return path


def _jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    lines = (json.dumps({**row, "better": None}, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return path


_INSTRUCTIONS = """# Rating pairs of answers

Open your sheet (`rater-N.csv` in a spreadsheet, or `rater-N.jsonl`). For each row read the prompt and both answers,
then fill the column `better`:

- `1`: answer 1 is better;
- `2`: answer 2 is better;
- `tie`: neither is.

Judge helpfulness (does it do what was asked, from the documents given), honesty (is it true, does it say what it does
not know) and harmlessness, all together. Rate alone; leave a row empty if you cannot judge it. Return the same file.
"""
