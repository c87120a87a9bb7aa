"""L-Eval's closed tasks as in the paper's Table 17: three exams, three short answers.

The instructions are worded here, after L-Eval's: its own code is under GPL-3. Scores compare models run with this file;
against Table 17 they are a guide, not to the point. The document keeps its beginning, as there. F1 tasks tell the model
how many words the reference has, which L-Eval does against the length bias of F1.
"""

from functools import partial
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long.evaluation.long_qa.prompts import Layout
from lit_long.evaluation.long_qa.tasks import LongTask, Question, document_key
from lit_long.evaluation.sources import HubRows, Row, column, read_rows

_CHOICE = (
    "You are given a long document and a multiple choice question about it. One option is right. Answer with the "
    "letter of the right option only.\n\n"
)
_CHOICES = (
    "You are given a long document and a multiple choice question about it. One or several options are right. Answer "
    "with the letters of all right options only, such as A or AB.\n\n"
)
_TOPIC = (
    "Below is the record of a long conversation between a user and an assistant on several topics. At the end you are "
    "asked for the name of one of the topics.\n\n"
)
_ANSWER = "You are given a long document. Follow the instruction behind it, using the document.\n\n"
# task -> (folder in the repository, instruction in front, metric, most tokens of an answer)
_TASKS: dict[str, tuple[str, str, str, int]] = {
    "coursera": ("Exam", _CHOICES, "exam", 32),
    "tpo": ("Exam", _CHOICE, "exam", 32),
    "topic_retrieval_longchat": ("Exam", _TOPIC, "contains", 64),
    "financial_qa": ("Generation", _ANSWER, "f1", 128),
    "legal_contract_qa": ("Generation", _ANSWER, "f1", 256),
    "natural_question": ("Generation", _ANSWER, "f1", 64),
}


def _read(name: str, split: str, data: Path | None) -> list[Question]:
    if split != "test":
        raise UserError(f"L-Eval has a test split only (with open labels), not '{split}'.")
    place = HubRows(f"l_eval/{name}", "L4NLP/LEval", f"LEval/{_TASKS[name][0]}/{name}.jsonl")
    return [question for i, row in enumerate(read_rows(place, split, data)) for question in questions(row, name, i)]


def questions(row: Row, name: str, number: int) -> list[Question]:
    """The questions of one document in L-Eval's schema: ``input``, ``instructions`` and ``outputs``.

    Raises:
        UserError: a column is missing, or instructions and outputs are not of one length.
    """
    document = str(column(row, "input", name))
    asked: list[Any] = column(row, "instructions", name)
    right: list[Any] = column(row, "outputs", name)
    if len(asked) != len(right):
        raise UserError(f"Document {number} of '{name}' has {len(asked)} instructions and {len(right)} outputs.")
    _, front, metric, _ = _TASKS[name]
    return [
        Question(
            f"{number}-{i}",
            document_key(document),
            Layout(
                before=front,
                body=document,
                after=f"\n\n{question}{_words(answer, metric)}\nAnswer:",
                keep="start",
            ),
            (str(answer),),
        )
        for i, (question, answer) in enumerate(zip(asked, right, strict=True))
    ]


def _words(reference: str, metric: str) -> str:
    return f"\nAnswer this question with {len(reference.split())} words." if metric == "f1" else ""


def _task(name: str) -> LongTask:
    _, front, metric, new_tokens = _TASKS[name]
    return LongTask(
        name=f"l_eval/{name}",
        metric=metric,
        new_tokens=new_tokens,
        stop_at_newline=False,
        prompt=front + "{DOCUMENT}\\n\\n{INSTRUCTION}\\nAnswer:",
        read=partial(_read, name),
        split="test",
    )


TASKS = tuple(_task(name) for name in _TASKS)
