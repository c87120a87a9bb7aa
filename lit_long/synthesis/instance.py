"""A training instance: as much of the document as fits the target length, always with the chunks of the question."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lit_long.synthesis import prompts
from lit_long.synthesis.config import Kind
from lit_long.synthesis.material import Span
from lit_long.synthesis.replies import RejectedError
from lit_long.synthesis.tokens import Counter, largest, token_range

Messages = list[dict[str, str]]
_Count = Callable[[int, int], int]  # tokens of an instance over characters begin..end-1


@dataclass(frozen=True)
class Wording:
    """What stands around a document: kind, question, answer, quotes for the answer."""

    kind: Kind
    question: str
    answer: str
    quotes: tuple[str, ...] = ()

    def messages(self, document: str) -> Messages:
        """The conversation over ``document``."""
        user = prompts.user(self.kind, document, self.question, cite=bool(self.quotes))
        return [
            {"role": "user", "content": user},
            {"role": "assistant", "content": prompts.assistant(self.answer, self.quotes)},
        ]


@dataclass(frozen=True)
class Instance:
    """Messages, the part of the document in them, their tokens in all and those of the document and of each chunk."""

    messages: Messages
    kept: Span
    tokens: int
    document_tokens: int
    chunk_tokens: tuple[tuple[int, int], ...]


def fit(
    text: str, start: int, chunks: Sequence[Span], wording: Wording, counter: Counter, target_length: int
) -> Instance:
    """The longest instance of at most ``target_length`` tokens, cut between tokens.

    The document is kept from ``start`` on. Where that leaves a chunk out, its beginning is dropped up to what makes
    room; where the document ends before the target length, it is taken from earlier.

    Args:
        text: the whole document.
        start: its first character that is kept, if there is room.
        chunks: what must be kept.
        wording: what stands around it.
        counter: of the model to be trained; has the chat template.
        target_length: tokens of the whole conversation.

    Raises:
        RejectedError: does_not_fit, with the chunks alone; special_token, in the words or the document.
    """
    first, last = min(chunk.start for chunk in chunks), max(chunk.end for chunk in chunks)
    if any(counter.special_in(words) for words in (wording.question, wording.answer, *wording.quotes)):
        raise RejectedError("special_token")

    def tokens(begin: int, end: int) -> int:
        return counter.chat(wording.messages(text[begin:end]))

    kept = _from(start, text, last, tokens, counter, target_length)
    if kept is None or (kept.end == len(text) and kept.start > 0):
        kept = _up_to(len(text) if kept else last, text, first, tokens, counter, target_length) or kept
    if kept is None:
        raise RejectedError("does_not_fit")
    document = text[kept.start : kept.end]
    if counter.special_in(document):
        raise RejectedError("special_token")
    offsets = counter.offsets(document)
    return Instance(
        wording.messages(document),
        kept,
        tokens(kept.start, kept.end),
        len(offsets),
        tuple(token_range(offsets, chunk.start - kept.start, chunk.end - kept.start) for chunk in chunks),
    )


def _from(start: int, text: str, last: int, tokens: _Count, counter: Counter, target_length: int) -> Span | None:
    """From ``start`` as far as there is room, at least to ``last``."""
    offsets = counter.head(text, start, target_length)
    ends = [end for _, end in offsets]
    needed = token_range(offsets, start, last)[1]
    if needed < 1 or ends[needed - 1] < last:  # more tokens than the target length
        return None

    def end(n: int) -> int:
        return len(text) if n == len(ends) and len(ends) <= target_length else max(ends[n - 1], last)

    n = largest(lambda n: tokens(start, end(n)), target_length, needed, len(ends))
    return None if n is None else Span(start, end(n))


def _up_to(end: int, text: str, first: int, tokens: _Count, counter: Counter, target_length: int) -> Span | None:
    """Up to ``end``, from as early as there is room, at the latest from ``first``."""
    offsets = counter.tail(text, end, target_length)[::-1]
    starts = [start for start, _ in offsets]
    needed = next((n for n, start in enumerate(starts, 1) if start <= first), None)
    if needed is None:
        return None
    n = largest(lambda n: tokens(min(starts[n - 1], first), end), target_length, needed, len(starts))
    return None if n is None else Span(min(starts[n - 1], first), end)
