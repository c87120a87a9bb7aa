"""What the pipeline asks of a generator, whoever answers: a prompt goes out, a reply comes back."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """One prompt (the user's turn) and how its reply is sampled; ``opening``: what the reply should begin with."""

    prompt: str
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    opening: str = ""


@dataclass(frozen=True)
class Reply:
    """Its text, why it ended (stop, length, content_filter), and its cost as the generator counts it."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Usage:
    """What requests cost; every try is a request."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class GivenUpError(Exception):
    """No reply after all tries; the document's question is asked again by the next run."""


class RefusedError(GivenUpError):
    """The generator refuses this request: the settings are wrong, or (a filter, a bug) only this text is."""


class PromptTooLongError(Exception):
    """The generator refuses this prompt as too long."""


class Client(Protocol):
    """A generator at work."""

    async def reply(self, request: Request, usage: Usage) -> Reply:
        """The reply to a request; what it cost is added to ``usage``.

        Raises:
            GivenUpError: none, after all tries; RefusedError: no try can help.
            PromptTooLongError: the prompt does not fit.
            UserError: the generator will never answer: unknown model, refused key.
        """

    async def close(self) -> None:
        """Let go of connections and memory."""
