"""A conversation as tokens, with the assistant's marked: which of them does the model have to write itself?

The model's own chat template renders the text. What belongs to the assistant is found in one of two ways:

- a template with ``{% generation %}`` marks says so itself (transformers' ``return_assistant_tokens_mask``);
- any other is asked for the conversation *before* each assistant turn with ``add_generation_prompt``: exactly what the
  model sees when it has to answer. That text must be a prefix of the whole; from there to the turn's stop token (the
  special token that follows an answer in this template) the assistant writes. Without the stop token among the targets
  a model never learns to stop.

The text is tokenised once, without the tokenizer's own BOS: a template that wants one renders it. So the ids are those
of ``tokenizer.apply_chat_template(messages)``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.errors import UserError

Message = Mapping[str, Any]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]


class BadExampleError(ValueError):
    """A conversation that cannot be rendered or masked; the message says why."""


@dataclass(frozen=True, eq=False)
class Chat:
    """A rendered conversation."""

    text: str
    ids: npt.NDArray[np.int32]
    """[tokens]."""
    assistant: npt.NDArray[np.bool_]
    """[tokens]: written by the assistant, its stop token included."""
    starts: npt.NDArray[np.int64]
    """[tokens]: where each token begins in ``text``, in characters."""


class ChatFormat:
    """Renders and masks conversations with a tokenizer's chat template.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        template: a chat template (Jinja) instead of the tokenizer's own.

    Raises:
        UserError: no template, or one whose answers end with no special token.
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self.tokenizer = tokenizer
        found = template if template is not None else tokenizer.chat_template
        if not found:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template; give data.chat_template (a Jinja "
                f"file), or start from an instruct model's tokenizer"
            )
        if not isinstance(found, str):
            raise UserError(
                f"the tokenizer has {len(found)} chat templates ({', '.join(map(str, found))}); save one of them to a "
                f"file and give it as data.chat_template"
            )
        self.template = found
        self.marked = bool(_GENERATION.search(found))
        special = {str(token) for token in tokenizer.all_special_tokens}
        special |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.special = sorted(special, key=len, reverse=True)
        self._any_special = re.compile("|".join(map(re.escape, self.special)) or r"(?!)")
        self.stop = "" if self.marked else self._stop()

    def render(self, messages: Sequence[Message], *, tools: Any = None, generate: bool = False) -> str:
        """The text of a conversation; with ``generate``, as the model sees it when it has to answer.

        Raises:
            BadExampleError: the template refuses the conversation.
        """
        import jinja2

        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=tools,
                chat_template=self.template,
                add_generation_prompt=generate,
                tokenize=False,
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise BadExampleError(f"the chat template refuses it: {str(error).splitlines()[0]}") from error
        return str(text)

    def encode(self, messages: Sequence[Message], *, tools: Any = None) -> Chat:
        """Tokens of a conversation, the assistant's marked.

        Raises:
            BadExampleError: a message without text or role, a special token inside of a text (it would be read as the
                template's own), no assistant turn, or a template that renders an answer's context in two ways.
        """
        self._check(messages)
        text = self.render(messages, tools=tools)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        ids = np.array(encoded["input_ids"], dtype=np.int32)
        if self.marked:
            assistant = self._marked(messages, tools, ids)
        else:
            assistant = np.zeros(len(ids), dtype=bool)
            for begin, end in self._turns(messages, tools, text):
                assistant |= (offsets[:, 1] > begin) & (offsets[:, 0] < end)
        if not assistant.any():
            raise BadExampleError("no token of it is the assistant's")
        return Chat(text, ids, assistant, offsets[:, 0])

    def _check(self, messages: Sequence[Message]) -> None:
        if not any(message.get("role") == "assistant" for message in messages):
            raise BadExampleError(f"it has no assistant turn (roles: {[message.get('role') for message in messages]})")
        for number, message in enumerate(messages):
            content = message.get("content")
            if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
                raise BadExampleError(f"message {number} has no text: content is {type(content).__name__}")
            if isinstance(content, str) and (found := self._any_special.search(content)):
                raise BadExampleError(f"message {number} holds the special token {found[0]!r} in its text")

    def _stop(self) -> str:
        """The special token that follows an answer."""
        try:
            text = self.render(_PROBE)
        except BadExampleError as error:
            raise UserError(f"the chat template cannot render a question and its answer: {error}") from error
        after = text.rpartition("answer")[2]
        found = self._any_special.search(after)
        if found is None:
            raise UserError(
                f"the chat template ends an answer without a special token ({after!r} follows it): the model would "
                f"never learn to stop. Give a template that ends it with {self.tokenizer.eos_token!r}, as "
                f"data.chat_template"
            )
        return found[0]

    def _turns(self, messages: Sequence[Message], tools: Any, text: str) -> list[tuple[int, int]]:
        """Characters of each assistant turn, stop token included."""
        turns = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            if number == 0:
                raise BadExampleError("message 0 is the assistant's, and no template says what it answers to")
            before = self.render(messages[:number], tools=tools, generate=True)
            if not text.startswith(before):
                raise BadExampleError(
                    f"the chat template renders what comes before message {number} in another way than in the whole "
                    f"conversation; give a template with {{% generation %}} marks"
                )
            end = text.find(self.stop, len(before))
            # A turn that ends with another token (Llama 3.1's <|eom_id|>) must not reach into the message behind it.
            if end < 0 or end >= self._behind(messages[: number + 1], tools, text):
                raise BadExampleError(f"message {number} is rendered without the stop token {self.stop!r}")
            turns.append((len(before), end + len(self.stop)))
        return turns

    def _behind(self, messages: Sequence[Message], tools: Any, text: str) -> int:
        """Where the last of these messages ends in the whole text; that text's length where it cannot be told."""
        try:
            alone = self.render(messages, tools=tools)
        except BadExampleError:  # such as a template that wants a tool's answer behind every call
            return len(text)
        return len(alone) if text.startswith(alone) else len(text)

    def _marked(self, messages: Sequence[Message], tools: Any, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        encoded = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=tools,
            chat_template=self.template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert np.array_equal(np.array(encoded["input_ids"], dtype=np.int32).reshape(-1), ids)
        return np.array(encoded["assistant_masks"], dtype=bool).reshape(-1)
