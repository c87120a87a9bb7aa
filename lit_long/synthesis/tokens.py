"""Counting tokens with the places of their characters, without tokenising more of a book than is needed."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any

_CHARACTERS = 8  # of a token, as a first guess of how much text is enough


class Counter:
    """A fast tokenizer that only counts.

    Args:
        tokenizer: of Hugging Face, fast.
        margin: factor on every count, where the tokenizer is not the one that matters but a stand-in.
    """

    def __init__(self, tokenizer: Any, *, margin: float = 1.0) -> None:
        self.tokenizer = tokenizer
        self.margin = margin
        self._backend = tokenizer.backend_tokenizer
        self._special = tuple(t.content for t in tokenizer.added_tokens_decoder.values() if t.special and t.content)

    def count(self, text: str) -> int:
        """Tokens of a text, special tokens in it read as such, none added; times the margin, rounded up."""
        return -int(-len(self._encoded(text)) * self.margin // 1)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """First and behind-last character of each token; tokens that share a character have the same."""
        return [(int(start), int(end)) for start, end in self._encoded(text).offsets]

    def chat(self, messages: Sequence[dict[str, str]], *, prompt: bool = False) -> int:
        """Tokens of a conversation in the tokenizer's own chat template.

        Args:
            messages: role and content of each turn.
            prompt: the assistant's turn is opened behind them.
        """
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
        return self.count(text)

    def special_in(self, text: str) -> bool:
        """Whether a text spells a special token, which a chat template would take for the real one."""
        return any(token in text for token in self._special)

    def head(self, text: str, start: int, tokens: int) -> list[tuple[int, int]]:
        """Offsets (in ``text``) of at least ``tokens`` tokens from the character ``start`` on, or of all there are."""
        size = tokens * _CHARACTERS
        while True:
            found = self.offsets(text[start : start + size])
            if len(found) > tokens or start + size >= len(text):
                return [(a + start, b + start) for a, b in found]
            size *= 2

    def tail(self, text: str, end: int, tokens: int) -> list[tuple[int, int]]:
        """Offsets (in ``text``) of at least ``tokens`` tokens before the character ``end``, or of all there are."""
        size = tokens * _CHARACTERS
        while True:
            begin = max(0, end - size)
            found = self.offsets(text[begin:end])
            if len(found) > tokens or begin == 0:
                return [(a + begin, b + begin) for a, b in found]
            size *= 2

    def _encoded(self, text: str) -> Any:
        return self._backend.encode(text, add_special_tokens=False)


def token_range(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """First and behind-last index of the tokens that hold characters of start..end-1."""
    first = bisect_right(offsets, start, key=lambda offset: offset[1])
    return first, max(first, bisect_left(offsets, end, key=lambda offset: offset[0]))


def largest(count: Callable[[int], int], limit: int, low: int, high: int) -> int | None:
    """The largest n of low..high with count(n) <= limit; None if count(low) is more.

    ``count`` grows by about one with n (text is tokenised again at each cut, so not exactly): a guess and its neighbour
    are mostly enough.
    """
    assert low <= high
    at_low = count(low)
    if at_low > limit:
        return None
    if low == high:
        return low
    behind = high + 1  # the least n that is known, or taken, to be too large
    while behind - low > 1:
        guess = min(max(low + limit - at_low, low + 1), behind - 1)
        found = count(guess)
        if found <= limit:
            low, at_low = guess, found
        else:
            behind = guess
            if guess > low + 1:  # step back by what was too much
                better = max(guess - (found - limit), low + 1)
                if better < behind and (at_better := count(better)) <= limit:
                    low, at_low = better, at_better
                elif better < behind:
                    behind = better
    return low
