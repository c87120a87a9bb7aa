"""Reads the generator's replies. What cannot be read is a reason to reject, never guessed at."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

REASONS = {
    "empty_reply": "the reply was empty",
    "no_tags": "neither <question> nor <answer> in the reply",
    "no_question": "no <question>...</question> in the reply",
    "no_answer": "no <answer>...</answer> in the reply",
    "several_pairs": "more than one question or answer in the reply",
    "empty_question": "the question was empty, or only the words of the form",
    "empty_answer": "the answer was empty, or only the words of the form",
    "cut_off": "the reply reached max_tokens before its tags were complete",
    "refused": "the generator's content filter stopped the reply",
    "answer_not_short": "the answer to a short question was too long",
    "no_quote": "quotes were asked for and not (all) given",
    "quote_not_found": "a quote is not in the text that was shown",
    "critique_no": "the self-critique said no",
    "critique_unclear": "the self-critique gave no verdict",
    "known_without_document": "the generator knew the answer without the document",
    "special_token": "the question or the answer spells a special token of the tokenizer",
    "does_not_fit": "template, chunk, question and answer are longer than target_length",
    "prompt_too_long": "the server said that the request does not fit the generator",
}
_EMPTY = {"question", "answer", "...", "\u2026"}  # the words of the form
_ANY = r"</?(?:question|answer|quote)>"
_QUESTION = re.compile(rf"<question>(.*?){_ANY}", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(rf"<answer>(.*?){_ANY}", re.DOTALL | re.IGNORECASE)
_LAST_ANSWER = re.compile(rf"<answer>(.*?)(?:{_ANY}|\Z)", re.DOTALL | re.IGNORECASE)
_QUOTE = re.compile(r"<quote>(.*?)</quote>", re.DOTALL | re.IGNORECASE)
_VERDICT = re.compile(r"<verdict>(.*?)</verdict>", re.DOTALL | re.IGNORECASE)
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u201c\u201d\u2013\u2014", " "))


class RejectedError(Exception):
    """A pair that is not kept, for one of :data:`REASONS`. Caught by the pipeline, never seen by users."""

    def __init__(self, reason: str) -> None:
        assert reason in REASONS, reason
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Pair:
    """A question, its answer, and the evidence quoted for it."""

    question: str
    answer: str
    quotes: tuple[str, ...] = ()


def read_pair(reply: str, finish: str) -> Pair:
    """Question, answer and quotes between the tags of a reply; text around them is let be.

    Each goes to the next of these tags, whichever it is: small models close one with the name of the other. An answer
    that is not closed goes to the end of a reply that was not cut off.

    Args:
        reply: of the generator.
        finish: why it ended: stop, length or content_filter.

    Raises:
        RejectedError: there is not exactly one non-empty question with one non-empty answer.
    """
    if finish == "content_filter":
        raise RejectedError("refused")
    if not reply.strip():
        raise RejectedError("empty_reply")
    questions = _QUESTION.findall(reply)
    answers = (_ANSWER if finish == "length" else _LAST_ANSWER).findall(reply)
    if not questions or not answers:
        missing = "no_tags" if not (questions or answers) else "no_answer" if questions else "no_question"
        raise RejectedError("cut_off" if finish == "length" else missing)
    if len(questions) > 1 or len(answers) > 1:
        raise RejectedError("several_pairs")
    question, answer = questions[0].strip(), answers[0].strip()
    for text, reason in ((question, "empty_question"), (answer, "empty_answer")):
        if text.lower().rstrip(".") in _EMPTY or not text.strip(string.punctuation + string.whitespace):
            raise RejectedError(reason)
    return Pair(question, answer, tuple(quote.strip().strip('"\u201c\u201d') for quote in _QUOTE.findall(reply)))


def check_short(answer: str, words: int) -> None:
    """Refuse an answer of more words.

    Raises:
        RejectedError: answer_not_short.
    """
    if len(answer.split()) > words:
        raise RejectedError("answer_not_short")


def check_quotes(quotes: Sequence[str], chunks: Sequence[str]) -> None:
    """Each chunk must have a quote that stands in it, white space aside, and no quote may stand nowhere.

    Raises:
        RejectedError: no_quote or quote_not_found.
    """
    wanted = [" ".join(quote.split()) for quote in quotes if quote.strip()]
    if not wanted:
        raise RejectedError("no_quote")
    texts = [" ".join(chunk.split()) for chunk in chunks]
    if any(all(quote not in text for text in texts) for quote in wanted):
        raise RejectedError("quote_not_found")
    if any(all(quote not in text for quote in wanted) for text in texts):
        raise RejectedError("no_quote")


def read_verdict(reply: str) -> str:
    """yes, no or unclear. The rule: the last ``<verdict>`` decides; without one, a reply that begins with yes or no."""
    tags = _VERDICT.findall(reply)
    words = re.findall(r"[a-z]+", (tags[-1] if tags else reply).lower())
    return words[0] if words and words[0] in ("yes", "no") else "unclear"


def word_f1(reply: str, answer: str) -> float:
    """Overlap of words as SQuAD counts it (lower case, without punctuation and articles), 0 to 1.

    A reply that contains a short answer whole (up to 5 words) counts as 1: a free reply has many more words.
    """
    given, gold = _words(reply), _words(answer)
    if not given or not gold:
        return 0.0
    if len(gold) <= 5 and any(given[i : i + len(gold)] == gold for i in range(len(given))):
        return 1.0
    same = sum((Counter(given) & Counter(gold)).values())
    return 2 * same / (len(given) + len(gold))


def _words(text: str) -> list[str]:
    return [word for word in text.lower().translate(_PUNCTUATION).split() if word not in _ARTICLES]
