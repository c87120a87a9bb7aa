"""ZeroSCROLLS: ten zero-shot tasks whose prompts come with the dataset (Table 4).

A prompt that is too long loses the end of its document and keeps its query: ``input`` up to ``query_start_index`` is
cut on token ids, then come the dataset's truncation separator and the query. Answers may be as long as the
benchmark's own runs allow. About 20 examples a task have open labels (validation); for the leaderboard, answers to
the test split are written to a CSV of Task, ID and Prediction.
"""

import csv
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from lit_long.errors import UserError
from lit_long.evaluation.long_qa.prompts import Layout
from lit_long.evaluation.long_qa.tasks import LongTask, Question, document_key
from lit_long.evaluation.sources import HubRows, Row, column, read_rows

# task -> (metric, most tokens of an answer); lengths as in the benchmark's API runs
_TASKS = {
    "gov_report": ("rouge_geo", 1024),
    "summ_screen_fd": ("rouge_geo", 512),
    "qmsum": ("rouge_geo", 512),
    "squality": ("rouge_geo", 512),
    "qasper": ("f1", 128),
    "narrative_qa": ("f1", 64),
    "quality": ("accuracy", 10),
    "musique": ("f1", 32),
    "space_digest": ("exponential_similarity", 36),
    "book_sum_sort": ("concordance", 256),
}


def _read(name: str, split: str, data: Path | None) -> list[Question]:
    place = HubRows(f"zero_scrolls/{name}", "tau/zero_scrolls", f"{name}.zip!{name}/{{split}}.jsonl")
    return questions(read_rows(place, split, data), name)


def questions(rows: list[Row], name: str) -> list[Question]:
    """Questions from rows in ZeroSCROLLS' schema; rows that share an id are further references.

    Raises:
        UserError: a column is missing, or the indices do not lie in the text.
    """
    found: dict[str, Question] = {}
    for row in rows:
        id, text = str(column(row, "id", name)), str(column(row, "input", name))
        output = row.get("output")
        references = (output,) if isinstance(output, str) and output else tuple(output or ())
        if id in found:
            known = found[id]
            found[id] = Question(id, known.document, known.layout, known.references + references)
            continue
        query = int(column(row, "query_start_index", name))
        first, last = int(column(row, "document_start_index", name)), int(column(row, "document_end_index", name))
        if not 0 <= first <= last <= query <= len(text):
            raise UserError(f"Row {id} of '{name}': document {first}-{last} and query {query} do not lie in its text.")
        layout = Layout(
            body=text[:query],
            keep="start",
            after=text[query:],
            # the benchmark's own column is spelled like this
            separator=str(column(row, "truncation_seperator", name)),
        )
        found[id] = Question(id, document_key(text[first:last]), layout, references)
    return list(found.values())


def write_submission(answers: Mapping[str, Mapping[str, str]], path: Path) -> list[str]:
    """Write a file for the leaderboard.

    Args:
        answers: task -> example id -> answer, of the test split.
        path: the CSV file.

    Returns:
        The tasks that are missing; the leaderboard wants all ten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Task", "ID", "Prediction"])
        for task in _TASKS:
            writer.writerows((task, id, text) for id, text in answers.get(task, {}).items())
    return [task for task in _TASKS if task not in answers]


def _task(name: str) -> LongTask:
    metric, new_tokens = _TASKS[name]
    return LongTask(
        name=f"zero_scrolls/{name}",
        metric=metric,
        new_tokens=new_tokens,
        stop_at_newline=False,
        prompt="the dataset's own prompt",
        read=partial(_read, name),
    )


TASKS = tuple(_task(name) for name in _TASKS)
