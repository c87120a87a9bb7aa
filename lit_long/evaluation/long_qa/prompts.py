"""From a question to token ids that fit: which part of a prompt is cut, and on which side.

Every benchmark here is the same picture: something that always stays in front, a body that may be cut, something that
always stays behind. The paper cuts its whole prompt from the left; ZeroSCROLLS and L-Eval keep the beginning of the
document and all of the question. Cutting is done on token ids and never decoded again, so a length is exact.
"""

from dataclasses import dataclass
from typing import Any, Literal

from lit_long.errors import UserError

_MARK = "LITLONGPROMPTGOESHERE"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A prompt in parts.

    Attributes:
        body: the text that is cut where the prompt is too long.
        keep: which end of the body stays.
        before: text in front of the body, never cut.
        after: text behind the body, never cut.
        separator: put between body and ``after`` where the body was cut (ZeroSCROLLS says "... [truncated]").
    """

    body: str
    keep: Literal["start", "end"]
    before: str = ""
    after: str = ""
    separator: str = ""

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.before + self.body + self.after


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, and how many tokens of the body did not fit."""

    ids: list[int]
    cut: int


def chat_frame(tokenizer: Any) -> tuple[str, str]:
    """What the tokenizer's chat template puts before and behind a user's message, with the assistant's turn opened.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "This tokenizer has no chat template. Give plain prompts (without --chat), or a model with a template."
        )
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": _MARK}], tokenize=False, add_generation_prompt=True
    )
    before, _, after = rendered.partition(_MARK)
    return before, after


def fit_prompt(layout: Layout, tokenizer: Any, limit: int, *, chat: tuple[str, str] | None = None) -> Prompt:
    """Encode a prompt in at most ``limit`` tokens.

    Args:
        layout: the prompt.
        tokenizer: of the model; its special tokens in front (BOS) are kept and counted.
        limit: most tokens of the result.
        chat: from :func:`chat_frame`, for models that are talked to through a template.

    Raises:
        UserError: the parts that are never cut are longer than ``limit``.
    """
    first = _leading_special(tokenizer) if chat is None else []
    before, after = layout.before, layout.after
    if chat is not None:
        before, after = chat[0] + before, after + chat[1]

    whole = first + _encode(tokenizer, before + layout.body + after)
    if len(whole) <= limit:
        return Prompt(whole, 0)
    if not before and not after:  # the paper's rule, exactly: the last tokens of the whole prompt
        body, head, tail = whole[len(first) :], first, []
    else:
        body = _encode(tokenizer, layout.body)
        head, tail = first + _encode(tokenizer, before), _encode(tokenizer, layout.separator + after)
    room = limit - len(head) - len(tail)
    if room < 1:
        raise UserError(
            f"A prompt cap of {limit:,} tokens leaves no room for the document: the question and instructions alone "
            f"take {len(head) + len(tail):,}. Raise --max-length."
        )
    kept = body[:room] if layout.keep == "start" else body[-room:]
    return Prompt(head + kept + tail, len(body) - len(kept))


def _encode(tokenizer: Any, text: str) -> list[int]:
    if not text:
        return []
    # verbose=False: the warning that a text is longer than the model's window is no news here
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _leading_special(tokenizer: Any) -> list[int]:
    """The special tokens that this tokenizer puts in front of a text (BOS for Llama)."""
    probe = "a"
    plain, full = _encode(tokenizer, probe), tokenizer(probe)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return list(full[:start])
    raise UserError("This tokenizer changes a text's tokens when it adds special ones; no prompt can be built exactly.")
