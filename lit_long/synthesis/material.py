"""What of a document is used: the part that is kept, its chunks, and those that a question is about."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lit_long.synthesis.draw import Draw
from lit_long.synthesis.tokens import Counter

_BREAKS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"\n"),
    re.compile(r"[.!?][\"'\u201d\u2019)]*\s+|[\u3002\uff01\uff1f]"),  # Chinese and Japanese write no space
    re.compile(r"\s+"),
)
_SNAP = 0.1  # of a chunk that may be given up to end it at a break


@dataclass(frozen=True)
class Span:
    """Characters start..end-1 of a document."""

    start: int
    end: int


def kept_part(text: str, counter: Counter, tokens: int, cut: Literal["start", "anywhere"], place: float) -> Span:
    """The stretch of at most about ``tokens`` tokens that chunks are drawn from; the whole text if it is no longer.

    Args:
        text: of the document.
        counter: of the model to be trained.
        tokens: what is sure to fit beside template, question and answer.
        cut: start, or anywhere by ``place``.
        place: 0..1, where the stretch begins.
    """
    offsets = counter.head(text, 0, tokens)
    if len(offsets) <= tokens:
        return Span(0, len(text))
    end = offsets[tokens - 1][1]
    if cut == "start":
        return Span(0, end)
    start = int(place * (len(text) - end))  # as if every stretch had as many characters as the first
    if start:
        gap = re.compile(r"\s").search(text, start, min(start + 200, len(text)))
        start = gap.end() if gap else start
    offsets = counter.head(text, start, tokens)
    if len(offsets) > tokens:
        return Span(start, offsets[tokens - 1][1])
    offsets = counter.tail(text, len(text), tokens)  # fewer tokens to the end: the last stretch of full length
    return Span(offsets[max(0, len(offsets) - tokens)][0], len(text))


def split(text: str, part: Span, counter: Counter, tokens: int, pieces: int) -> list[Span]:
    """Chunks of at most ``tokens`` tokens of about the same length, at least ``pieces``, that make up the part.

    They end at the end of a paragraph, else of a line, a sentence or a word, where there is one near.
    """
    offsets = counter.offsets(text[part.start : part.end])
    number = max(pieces, 1)
    if len(offsets) * counter.margin > tokens:
        number = max(number, -int(-len(offsets) * counter.margin * (1 + _SNAP) // tokens))
    if number == 1:
        return [part]
    cuts = [part.start]
    for i in range(1, number):
        at = part.start + offsets[len(offsets) * i // number][0]
        back = int(_SNAP * (part.end - part.start) / number)
        cuts.append(max(cuts[-1], _break(text, at - back, at)))
    return [Span(a, b) for a, b in zip(cuts, [*cuts[1:], part.end], strict=True) if text[a:b].strip()]


def pick(chunks: Sequence[Span], draw: Draw) -> tuple[Span, ...]:
    """The chunks of a draw, all different, in the order of the document."""
    left = list(chunks)
    picked = [left.pop(int(chance * len(left))) for chance in draw.chunks if left]
    return tuple(sorted(picked, key=lambda span: span.start))


def _break(text: str, low: int, high: int) -> int:
    """The last good place to cut at in low..high; ``high`` if there is none."""
    for pattern in _BREAKS:
        found = [match.end() for match in pattern.finditer(text, max(low, 0), high)]
        if found:
            return found[-1]
    return high
