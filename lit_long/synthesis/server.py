"""An OpenAI-compatible server, through the ``openai`` client (extra ``synthesis``).

The client's own retries are switched off: they are not counted, do not cover a reply that is cut short or is no JSON,
and each request would wait alone where the server asks all of them to.
"""

import asyncio
import json
import os
import random
import re
from collections import Counter
from typing import Any

from lit_long.errors import UserError
from lit_long.synthesis.client import GivenUpError, PromptTooLongError, RefusedError, Reply, Request, Usage
from lit_long.synthesis.config import Server
from lit_long.synthesis.pace import Pace
from lit_long.synthesis.replies import RejectedError

_LONGEST_BACKOFF = 60.0
_LONGEST_WAIT = 600.0  # of a Retry-After; beyond it the server counts as away
_CHARACTERS = 3  # of a token, to book tokens_per_minute before the server has counted
_NEVER = {401: "the key was refused", 403: "access was refused", 404: "the address or the model is not known"}
_TOO_LONG = ("context length", "context_length", "maximum context", "too long", "too many tokens", "exceed")


class ServerClient:
    """A :class:`~lit_long.synthesis.client.Client` of a server.

    Args:
        config: which server, and how hard it may be pressed.

    Raises:
        UserError: the extra is not installed, or the environment variable of the key is not set.
    """

    def __init__(self, config: Server) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise UserError(
                "generator Server needs the package openai; install with: pip install 'lit-long[synthesis]'"
            ) from error
        self._config = config
        self._key = "unused"  # never the client's default, OPENAI_API_KEY, which may be for somebody else
        if config.api_key_env is not None:
            self._key = os.environ.get(config.api_key_env, "")
            if not self._key:
                raise UserError(
                    f"generator.api_key_env: the environment variable {config.api_key_env} is not set; put the key "
                    "there"
                )
        self._client = AsyncOpenAI(api_key=self._key, base_url=config.base_url, max_retries=0, timeout=config.timeout)
        self._place = re.sub(r"//[^/@]*@", "//", config.base_url)  # without a user and password
        self._requests, self._tokens = Pace(config.requests_per_minute), Pace(config.tokens_per_minute)
        self.retries: Counter[str] = Counter()

    async def reply(self, request: Request, usage: Usage) -> Reply:
        """See :class:`~lit_long.synthesis.client.Client`."""
        for attempt in range(self._config.tries):
            if attempt:
                wait = min(self._config.backoff * 2 ** (attempt - 1), _LONGEST_BACKOFF)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            booked = len(request.prompt) / _CHARACTERS + request.max_tokens
            await self._tokens.wait(booked)
            await self._requests.wait()
            usage.requests += 1
            try:
                answer = await self._send(request)
            except _RetryError as error:
                self.retries[error.cause] += 1
                last = error
                if error.wait is not None:
                    if error.wait > _LONGEST_WAIT:
                        break
                    self._requests.hold(error.wait)
                continue
            usage.prompt_tokens += answer.prompt_tokens
            usage.completion_tokens += answer.completion_tokens
            self._tokens.give_back(booked - answer.prompt_tokens - answer.completion_tokens)
            return answer
        raise GivenUpError(self._hidden(f"{last.cause} after {attempt + 1} tries: {last}"))

    async def close(self) -> None:
        """See :class:`~lit_long.synthesis.client.Client`."""
        await self._client.close()

    async def _send(self, request: Request) -> Reply:
        import openai

        try:
            answer = await self._client.chat.completions.create(
                model=self._config.model,
                messages=[{"role": "user", "content": request.prompt}],
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                extra_body=self._config.extra_body or None,
            )
        except openai.APITimeoutError as error:
            raise _RetryError("timeout", f"no reply in {self._config.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise _RetryError("connection", _first_line(error.__cause__ or error)) from error
        except openai.APIStatusError as error:
            raise self._status(error) from error
        except (json.JSONDecodeError, UnicodeDecodeError, openai.APIError) as error:
            raise _RetryError("malformed", _first_line(error)) from error
        return _read(answer)

    def _status(self, error: Any) -> Exception:
        code, text = error.status_code, self._hidden(_first_line(error))
        if code in _NEVER:
            return UserError(f"generator {self._place}: {_NEVER[code]} ({text}); check base_url, model and api_key_env")
        if code in (400, 413, 422):
            if any(sign in str(error).lower() for sign in _TOO_LONG):
                return PromptTooLongError(text)
            if "content_filter" in f"{error.code} {error}":
                return RejectedError("refused")
            return RefusedError(f"generator {self._place}: the request was refused ({text})")
        cause = "rate limit" if code == 429 else f"status {code}"
        return _RetryError(cause, text, _retry_after(error.response.headers))

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._config.api_key_env else text


class _RetryError(Exception):
    """Worth another try, after ``wait`` seconds if the server says so."""

    def __init__(self, cause: str, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.cause, self.wait = cause, wait


def _read(answer: Any) -> Reply:
    """The reply in a completion; servers differ in what they leave out."""
    try:
        choice = answer.choices[0]
        text, finish = choice.message.content or "", choice.finish_reason or "stop"
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}")
    except (AttributeError, IndexError, TypeError) as error:
        raise _RetryError("malformed", f"no reply in the answer ({_first_line(error)})") from error
    usage = getattr(answer, "usage", None)
    prompt, completion = (int(getattr(usage, key, None) or 0) for key in ("prompt_tokens", "completion_tokens"))
    return Reply(text, str(finish), prompt, completion)


def _retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait: Retry-After as a number or a date."""
    from email.utils import parsedate_to_datetime
    from time import time

    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
