"""Examples of an instruction recipe, as its training would read them, and the same ones without their document."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lit_long.data.instruct.data import InstructData
from lit_long.data.instruct.store import ChatCorpus
from lit_long.errors import UserError

Split = Literal["held_out", "train"]


@dataclass(frozen=True)
class ChatExample:
    """One conversation.

    Attributes:
        id: its source, number and content hash: unique, and another for other tokens.
        source: name of the recipe's source.
        place: file and line, or row, that it came from.
        group: its document, or what else groups examples.
        ids: int32 [tokens].
        assistant: bool [tokens]: what the assistant writes.
    """

    id: str
    source: str
    place: str
    group: str
    ids: npt.NDArray[np.int32]
    assistant: npt.NDArray[np.bool_]


def examples_of(data: InstructData, tokenizer: str | None, split: Split) -> list[ChatExample]:
    """The chats of a recipe's data, tokenised if they are not yet.

    Args:
        data: the recipe's DataModule.
        tokenizer: the model's, where the data names none.
        split: those held out of training, or those trained on.

    Raises:
        UserError: there are none.
    """
    data.form(tokenizer)
    data.open_stores()
    parts = list(data.held_out.values()) if split == "held_out" else data.parts
    found = [example for part in parts for example in _read(part.name, part.documents.corpus)]
    if not found:
        share = f"; data.held_out_share is {data.held_out_share:g}" if split == "held_out" else ""
        raise UserError(f"The recipe has no chats in the split {split}{share}.")
    return found


def _read(source: str, corpus: object) -> Iterator[ChatExample]:
    if not isinstance(corpus, ChatCorpus):
        return  # pretraining text has no answers
    for number, group in enumerate(corpus.groups()):
        size = int(corpus.starts[number + 1] - corpus.starts[number])
        ids, own = corpus.span(number, 0, size), corpus.assistant(number, 0, size)
        digest = hashlib.sha256(ids.tobytes() + own.tobytes()).hexdigest()[:12]
        yield ChatExample(f"{source}/{number}/{digest}", source, corpus.document_id(number), group, ids, own)


def without_middle(example: ChatExample, keep: int) -> ChatExample | None:
    """The example with at most ``keep`` tokens of its longest input: half from its beginning, half from its end.

    In a question about a document, the document goes and instruction and question stay, as long as ``keep`` has room
    for them. ``None`` where no input is longer than ``keep``.
    """
    edges = np.flatnonzero(np.diff(np.r_[True, example.assistant, True].astype(np.int8)))
    begins, ends = edges[0::2], edges[1::2]  # of runs that are not the assistant's
    if not len(begins):
        return None
    longest = int(np.argmax(ends - begins))
    begin, end = int(begins[longest]), int(ends[longest])
    if end - begin <= keep:
        return None
    kept = np.r_[0 : begin + keep // 2, end - (keep - keep // 2) : len(example.ids)]
    return ChatExample(
        example.id, example.source, example.place, example.group, example.ids[kept], example.assistant[kept]
    )
