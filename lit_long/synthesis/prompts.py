"""The wording of every request, and of the training instances made from the replies. The wording is ours.

``VERSION`` is kept with each pair; change it with the wording, so that a run does not go on with other prompts.
"""

from collections.abc import Sequence

from lit_long.synthesis.config import Kind

VERSION = "1"

_ASK: dict[Kind, str] = {
    "normal": (
        "Write one question about what this part of the document says, together with its correct answer. The answer "
        "may take a few sentences and must follow from the text alone."
    ),
    "short": (
        "Write one precise question about a single fact in this part of the document, together with its correct "
        "answer. The answer must be a few words, such as a name, a number or a phrase, with no explanation."
    ),
    "multi_chunk": (
        "Write one question that can only be answered by putting together something from each of these parts of the "
        "document, together with its correct answer. The answer must follow from the text alone."
    ),
    "summary": (
        "Choose the main subject of this part of the document. Write a request that names that subject and asks for a "
        "summary of what the document says about it, together with the summary, in three to six sentences that follow "
        "from the text alone."
    ),
}
_READER = (
    "Name the people, things and places that you ask about, so that a reader who has the whole document, and does not "
    "know which part you were shown, understands the question."
)
_FORM = "Begin your reply with <question> and give it this form:\n<question>...</question>\n<answer>...</answer>"
OPENING = "<question>"  # with which a reply begins
_QUOTES = (
    "<quote>...</quote>\nwith the words of the text that prove the answer, copied exactly, as the quote.",
    "<quote>...</quote>\nwith one quote for each part: the words of it that prove the answer, copied exactly.",
)
_REMINDER = "Remember: the answer must be a few words only."
_USER: dict[Kind, str] = {
    "normal": "Answer the question that follows this document.",
    "short": (
        "Answer the question that follows this document. Be as brief as you can: a few words or one phrase, without "
        "an explanation."
    ),
    "multi_chunk": "Answer the question that follows this document. The answer may need several places of it.",
    "summary": "Do what is asked after this document.",
}
_CITE = " After the answer, quote the words of the document that prove it."


def ask(kind: Kind, chunks: Sequence[str], *, citation: bool) -> str:
    """The request for a question and its answer.

    Args:
        kind: of question.
        chunks: the text shown, one or (multi_chunk) more pieces.
        citation: evidence is to be quoted.
    """
    form = [_FORM]
    if citation:
        form.append(_QUOTES[len(chunks) > 1])
    if kind == "short":
        form.append(_REMINDER)
    shown = "a part" if len(chunks) == 1 else f"{len(chunks)} parts"
    return "\n\n".join(
        [f"Here is {shown} of a long document.", _parts(chunks), f"{_ASK[kind]} {_READER}", "\n".join(form)]
    )


def critique(chunks: Sequence[str], question: str, answer: str) -> str:
    """The request to verify an answer; the reply is read by :func:`lit_long.synthesis.replies.read_verdict`."""
    shown = "a part" if len(chunks) == 1 else f"{len(chunks)} parts"
    return "\n\n".join(
        [
            f"Here is {shown} of a document, and a question about it with an answer that somebody proposed.",
            _parts(chunks),
            f"Question: {question}",
            f"Proposed answer: {answer}",
            "Check the answer against the text. It passes only if the question is clear, every statement of the answer "
            "is supported by the text, and the answer is complete.",
            "Give your reason in one sentence, then your verdict as <verdict>yes</verdict> if it passes or "
            "<verdict>no</verdict> if it does not.",
        ]
    )


def closed_book(question: str) -> str:
    """The question alone, for the check that the document is needed."""
    return (
        "Answer this question from what you know. If you do not know the answer, say that you do not know.\n\n"
        f"Question: {question}"
    )


def user(kind: Kind, document: str, question: str, *, cite: bool) -> str:
    """The user's turn of a training instance: instruction, document, question."""
    instruction = _USER[kind] + (_CITE if cite else "")
    return f"{instruction}\n\n<document>\n{document}\n</document>\n\nQuestion: {question}"


def assistant(answer: str, quotes: Sequence[str]) -> str:
    """The assistant's turn: the answer, and the quotes if they are asked for."""
    return "\n\n".join([answer, *(f'"{quote}"' for quote in quotes)])


def _parts(chunks: Sequence[str]) -> str:
    if len(chunks) == 1:
        return f"<text>\n{chunks[0]}\n</text>"
    return "\n\n".join(f"<part {i}>\n{chunk}\n</part {i}>" for i, chunk in enumerate(chunks, 1))
