"""The paper's four tasks for base models (Table 3, Table 13, Fig. 2): NarrativeQA, Qasper, QuALITY and QMSum.

Rows are those of SCROLLS, where a question stands in front of its document and each reference is a row of its own.
The prompt is the paper's, ``{CONTEXT} Q: {QUESTION}, A:``, behind 0, 2, 2 or 1 examples of the training split, cut
from the left. The paper does not say which examples, nor how long answers may be: here the first ones whose documents
are shortest among the first 64 training questions, so that they have a chance to stay inside the cap, and 64 tokens
(256 for QMSum).
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lit_long.errors import UserError
from lit_long.evaluation.long_qa.prompts import Layout
from lit_long.evaluation.long_qa.tasks import LongTask, Question, document_key
from lit_long.evaluation.sources import HubRows, Row, column, read_rows

TEMPLATE = "{CONTEXT} Q: {QUESTION}, A:"
_POOL = 64
_OPTIONS_END = re.compile(r"\(D\).*?\n\n", flags=re.DOTALL)


def _read(name: str, shots: int, split: str, data: Path | None) -> list[Question]:
    place = HubRows(f"scrolls/{name}", "tau/scrolls", f"{name}.zip!{name}/{{split}}.jsonl")
    examples = _examples(read_rows(place, "train", data), name, shots) if shots else ""
    return [
        Question(
            id,
            document_key(context),
            Layout(body=examples + prompt(context, question), keep="end"),
            tuple(references),
        )
        for id, context, question, references in grouped(read_rows(place, split, data), name)
    ]


def prompt(context: str, question: str) -> str:
    """The paper's prompt (section 4.1)."""
    return TEMPLATE.replace("{CONTEXT}", context, 1).replace("{QUESTION}", question, 1)


def grouped(rows: Sequence[Row], name: str) -> list[tuple[str, str, str, list[str]]]:
    """Rows as (id, context, question, references), one entry a question.

    Raises:
        UserError: a row without a question in front of a blank line, or without the columns of SCROLLS.
    """
    found: dict[str, tuple[str, str, str, list[str]]] = {}
    for row in rows:
        id, text = str(column(row, "id", name)), str(column(row, "input", name))
        output = column(row, "output", name)
        references = [output] if isinstance(output, str) else list(output or [])
        if id in found:
            found[id][3].extend(references)
            continue
        question, context = _split(text, name, id)
        found[id] = (id, context, question, references)
    return list(found.values())


def _split(text: str, name: str, id: str) -> tuple[str, str]:
    end = text.find("\n\n")
    if end < 0:
        raise UserError(f"Row {id} of '{name}' has no question in front of a blank line; is it SCROLLS' schema?")
    question, rest = text[:end], text[end + 2 :]
    if name == "quality":  # the options stand between question and story
        options = _OPTIONS_END.search(rest)
        if options is None:
            raise UserError(f"Row {id} of '{name}' has no options (A) to (D) behind its question.")
        question, rest = f"{question} {rest[: options.end()]}", rest[options.end() :]
    return " ".join(question.split()), rest.strip()


def _examples(rows: Sequence[Row], name: str, shots: int) -> str:
    found = grouped(rows[: 4 * _POOL], name)[:_POOL]
    if len(found) < shots:
        raise UserError(f"'{name}' needs {shots} training examples for its prompt, found {len(found)}.")
    chosen = sorted(found, key=lambda example: len(example[1]))[:shots]
    return "".join(f"{prompt(context, question)} {refs[0].strip()}\n\n" for _, context, question, refs in chosen)


def _task(name: str, shots: int, metric: str, new_tokens: int = 64) -> LongTask:
    return LongTask(
        name=f"scrolls/{name}",
        metric=metric,
        new_tokens=new_tokens,
        stop_at_newline=True,
        prompt=TEMPLATE,
        read=partial(_read, name, shots),
        shots=shots,
    )


TASKS = (
    _task("narrative_qa", 0, "f1"),
    _task("qasper", 2, "f1"),
    _task("quality", 2, "exact_match"),
    _task("qmsum", 1, "rouge_geo", 256),
)
