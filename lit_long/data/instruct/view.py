"""An example as text with the weight of every target: what the model reads, and what it is asked to write."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_long.data.instruct.data import InstructData
from lit_long.data.instruct.store import ChatCorpus
from lit_long.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens of one weight."""

    text: str
    tokens: int
    weight: float
    assistant: bool


@dataclass(frozen=True)
class Example:
    """An example, in segments."""

    source: str
    place: str
    segments: list[Segment]

    @property
    def summary(self) -> str:
        """Counts in a line."""
        tokens = sum(segment.tokens for segment in self.segments)
        targets = sum(segment.tokens for segment in self.segments if segment.weight)
        own = sum(segment.tokens for segment in self.segments if segment.assistant)
        return f"{self.source}, {self.place}: {tokens:,} tokens, {targets:,} targets, {own:,} of the assistant"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        segments = [vars(segment) for segment in self.segments]
        return {"source": self.source, "place": self.place, "segments": segments}


def example_of(data: InstructData, tokenizer: str | None, *, source: str | None = None, number: int = 0) -> Example:
    """One example of a DataModule, tokenised if it is not yet.

    Args:
        data: the DataModule.
        tokenizer: the model's, where the data names none.
        source: name of a source of chats; default: the first.
        number: which example.

    Raises:
        UserError: no such source or example.
    """
    chats = [name for name, each in data.sources.items() if each.path is not None]
    name = source or (chats[0] if chats else "")
    if name not in chats:
        raise UserError(f"--source {name!r}: the sources of chats are {chats}")
    form = data.form(tokenizer)
    data.open_stores()
    part = next((i for i, part in enumerate(data.parts) if part.name == name), None)
    if part is None:
        raise UserError(f"--source {name!r} has weight 0: nothing of it is trained on")
    corpus: Any = data.parts[part].documents.corpus
    assert isinstance(corpus, ChatCorpus)
    if not 0 <= number < corpus.documents:
        raise UserError(f"--example {number}: {name} has examples 0 to {corpus.documents - 1:,}")
    size = int(corpus.starts[number + 1] - corpus.starts[number])
    ids, own = corpus.span(number, 0, size), corpus.assistant(number, 0, size)
    weights = np.concatenate([[0.0], data.target_weights.piece(part, number, 0, size)])  # nothing predicts the first
    edges = np.flatnonzero((np.diff(weights) != 0) | (np.diff(own) != 0)) + 1
    segments = [
        Segment(form.tokenizer.decode(ids[a:b]), int(b - a), float(weights[a]), bool(own[a]))
        for a, b in zip([0, *edges.tolist()], [*edges.tolist(), size], strict=True)
    ]
    return Example(name, corpus.document_id(number), segments)


def painted(example: Example, *, at_most: int) -> "Text":
    """The example for a terminal: targets of the assistant green, counted input yellow, the rest dim.

    Args:
        example: what to show.
        at_most: tokens shown of a longer segment, half from each end.
    """
    from rich.text import Text

    text = Text()
    for segment in example.segments:
        shown = segment.text
        if segment.tokens > at_most:
            part = len(shown) * at_most // segment.tokens // 2
            shown = f"{shown[:part]} [... {segment.tokens - at_most:,} tokens ...] {shown[-part:]}"
        style = "dim" if not segment.weight else "bold green" if segment.assistant else "yellow"
        text.append(shown, style=style)
    return text
