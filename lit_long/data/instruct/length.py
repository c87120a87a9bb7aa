"""Examples that are longer than a sequence: refused, left out, cut, or split, as configured, and counted."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from lit_long.data.instruct.chat import BadExampleError, Chat, ChatFormat, Message

TooLong = Literal["error", "drop", "truncate", "split"]
_KEPT = 32  # tokens at each end of a text that is cut


class TooLongError(BadExampleError):
    """An example does not fit, and the policy cannot make it."""


def fit_length(
    form: ChatFormat, messages: Sequence[Message], tools: Any, *, limit: int, policy: TooLong
) -> tuple[list[Chat], str | None]:
    """A conversation as examples of at most ``limit`` tokens, and what was done to it (None: nothing).

    - ``truncate`` takes tokens out of the middle of the longest text that is not the assistant's, as many as are too
      many: the beginning and end of that text (where instruction and question stand), all answers and stop tokens stay;
    - ``split`` makes several conversations of whole rounds (a question up to its last answer), each with the system
      message and tools.

    Raises:
        TooLongError: ``error`` or ``drop`` and it is too long; ``truncate`` and the longest text is too short to make
            it fit; ``split`` and a single round is too long.
        BadExampleError: see :meth:`lit_long.data.instruct.chat.ChatFormat.encode`.
    """
    chat = form.encode(messages, tools=tools)
    if len(chat.ids) <= limit:
        return [chat], None
    if policy == "truncate":
        return [_cut_middle(chat, messages, limit)], "truncated"
    if policy == "split":
        return _split(form, messages, tools, limit), "split"
    raise TooLongError(f"{len(chat.ids):,} tokens, {limit:,} fit")


def _cut_middle(chat: Chat, messages: Sequence[Message], limit: int) -> Chat:
    texts = [str(m["content"]).strip() for m in messages if m["role"] != "assistant" and m.get("content")]
    longest = max(texts, key=len, default="")
    begin = chat.text.find(longest) if longest else -1
    if begin < 0:
        raise TooLongError(f"{len(chat.ids):,} tokens, {limit:,} fit, and the template changes the longest text")
    first = int(np.searchsorted(chat.starts, begin, side="left"))
    stop = int(np.searchsorted(chat.starts, begin + len(longest), side="left"))
    surplus = len(chat.ids) - limit
    if stop - first < surplus + 2 * _KEPT:
        raise TooLongError(
            f"{len(chat.ids):,} tokens, {limit:,} fit, and its longest text has only {stop - first:,} to cut from"
        )
    cut = first + (stop - first - surplus) // 2
    if chat.assistant[cut : cut + surplus].any():
        raise TooLongError(f"{len(chat.ids):,} tokens, {limit:,} fit, and an answer repeats the longest text before it")
    keep = np.r_[0:cut, cut + surplus : len(chat.ids)]
    return Chat(chat.text, chat.ids[keep], chat.assistant[keep], chat.starts[keep])


def _split(form: ChatFormat, messages: Sequence[Message], tools: Any, limit: int) -> list[Chat]:
    head = [message for message in messages if message["role"] == "system"]
    rounds: list[list[Message]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if not rounds or (message["role"] == "user" and rounds[-1][-1]["role"] == "assistant"):
            rounds.append([])
        rounds[-1].append(message)
    rounds = [each for each in rounds if any(m["role"] == "assistant" for m in each)]
    found: list[Chat] = []
    taken: list[Message] = []
    last: Chat | None = None
    for each in rounds:
        longer = form.encode([*head, *taken, *each], tools=tools)
        if len(longer.ids) <= limit:
            taken, last = [*taken, *each], longer
            continue
        alone = longer if not taken else form.encode([*head, *each], tools=tools)
        if len(alone.ids) > limit:
            raise TooLongError(f"a single round has {len(alone.ids):,} tokens, {limit:,} fit")
        if last is not None:
            found.append(last)
        taken, last = list(each), alone
    assert last is not None
    return [*found, last]
