"""One question, from a document to what came of it: draw, ask, read, check, fit."""

import asyncio
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from lit_long.data.sources import Document
from lit_long.errors import UserError
from lit_long.synthesis import prompts
from lit_long.synthesis.client import Client, GivenUpError, PromptTooLongError, RefusedError, Request, Usage
from lit_long.synthesis.config import Kind, SynthesizeConfig
from lit_long.synthesis.draw import Draw, draw
from lit_long.synthesis.instance import Instance, Wording, fit
from lit_long.synthesis.journal import Record
from lit_long.synthesis.material import Span, kept_part, pick, split
from lit_long.synthesis.replies import (
    Pair,
    RejectedError,
    check_quotes,
    check_short,
    read_pair,
    read_verdict,
    word_f1,
)
from lit_long.synthesis.tokens import Counter

_SLACK = 32  # tokens that joining texts, or another template, may add to what was counted
_LEAST_CHUNK = 32


@dataclass(frozen=True)
class Question:
    """The ``index``-th question about a document, which is the ``number``-th of all documents."""

    document: Document
    source: str
    number: int
    index: int

    @property
    def key(self) -> str:
        """Unique in a run."""
        return f"{self.document.id}#{self.index}"


class Pipeline:
    """Asks questions about documents.

    Args:
        config: what is asked and checked.
        client: who answers.
        trained: counts in tokens of the model to be trained; has the chat template.
        generator: counts in the generator's tokens.

    Raises:
        UserError: lengths that leave no room for a document or a chunk.
    """

    def __init__(self, config: SynthesizeConfig, client: Client, trained: Counter, generator: Counter) -> None:
        self._config, self._client, self._trained, self._generator = config, client, trained, generator
        self._document_tokens = cache(self._room_of_document)
        self._chunk_tokens = cache(self._room_of_chunk)
        for kind, weight in config.questions.weights.items():
            if weight:
                self._document_tokens(kind), self._chunk_tokens(kind)

    async def ask(self, question: Question) -> Record:
        """The journal's record of a question: accepted (with messages), rejected, skipped or failed.

        Raises:
            UserError: the generator will never answer.
        """
        config, usage = self._config, Usage()
        drawn = draw(
            config.seed, question.document.id, question.index, config.questions.weights, config.questions.pieces
        )
        record: Record = {
            "key": question.key,
            "number": question.number,
            "index": question.index,
            "outcome": "accepted",
            "reason": None,
            "kind": drawn.kind,
        }
        detail: dict[str, Any] = {}
        try:
            record["messages"] = await self._pair(question, drawn, detail, usage)
        except _SkippedError as skipped:
            record |= {"outcome": "skipped", "reason": str(skipped)}
        except RejectedError as rejected:
            record |= {"outcome": "rejected", "reason": rejected.reason}
        except PromptTooLongError:
            record |= {"outcome": "rejected", "reason": "prompt_too_long"}
        except GivenUpError as error:
            record |= {"outcome": "failed", "reason": str(error)}
            detail["request_refused"] = isinstance(error, RefusedError)
        return record | {"usage": asdict(usage), "detail": detail}

    async def _pair(self, question: Question, drawn: Draw, detail: dict[str, Any], usage: Usage) -> Any:
        """Messages of an accepted pair; ``detail`` is filled as things become known, for rejected ones, too."""
        config, checks, text = self._config, self._config.checks, question.document.text
        part, chunks = await asyncio.to_thread(self._material, text, drawn)
        shown = [text[chunk.start : chunk.end] for chunk in chunks]
        detail |= {
            "document_id": question.document.id,
            "source": question.source,
            "license": question.document.license,
            "document_chars": len(text),
            "chunk_char_start": [chunk.start for chunk in chunks],
            "chunk_char_end": [chunk.end for chunk in chunks],
            "sampling_seed": drawn.seed,
        }
        citation = checks.citation != "none" and drawn.kind != "summary"
        reply, finish = await self._reply(prompts.ask(drawn.kind, shown, citation=citation), drawn.seed, usage)
        detail["question_reply"] = reply
        pair = read_pair(reply, finish)
        detail |= {"question": pair.question, "answer": pair.answer, "quotes": list(pair.quotes) if citation else []}
        if drawn.kind == "short":
            check_short(pair.answer, checks.short_answer_words)
        if citation:
            check_quotes(pair.quotes, shown)
        quotes = pair.quotes if citation and checks.citation == "answer" else ()
        wording = Wording(drawn.kind, pair.question, pair.answer, quotes)
        # before the checks, which cost requests
        instance = await asyncio.to_thread(fit, text, part.start, chunks, wording, self._trained, config.target_length)
        await self._check(pair, drawn, shown, detail, usage)
        detail |= _places(instance)
        return instance.messages

    async def _check(self, pair: Pair, drawn: Draw, shown: list[str], detail: dict[str, Any], usage: Usage) -> None:
        checks = self._config.checks
        if checks.critique:
            prompt = prompts.critique(shown, pair.question, pair.answer)
            detail["critique_reply"], _ = await self._reply(prompt, drawn.seed, usage, check=True)
            detail["critique_verdict"] = read_verdict(detail["critique_reply"])
            if detail["critique_verdict"] != "yes":
                raise RejectedError("critique_no" if detail["critique_verdict"] == "no" else "critique_unclear")
        if checks.closed_book and drawn.kind != "summary":
            prompt = prompts.closed_book(pair.question)
            detail["closed_book_reply"], _ = await self._reply(prompt, drawn.seed, usage, check=True)
            detail["closed_book_f1"] = round(word_f1(detail["closed_book_reply"], pair.answer), 4)
            if detail["closed_book_f1"] >= checks.closed_book_f1:
                raise RejectedError("known_without_document")

    async def _reply(self, prompt: str, seed: int, usage: Usage, *, check: bool = False) -> tuple[str, str]:
        sampling = self._config.sampling
        request = Request(
            prompt,
            max_tokens=sampling.check_max_tokens if check else sampling.max_tokens,
            temperature=0.0 if check else sampling.temperature,
            top_p=1.0 if check else sampling.top_p,
            seed=seed,
            opening="" if check else prompts.OPENING,
        )
        reply = await self._client.reply(request, usage)
        # halves of surrogate pairs, which JSON can spell and UTF-8 cannot
        return reply.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), reply.finish

    def _material(self, text: str, drawn: Draw) -> tuple[Span, tuple[Span, ...]]:
        least = self._config.min_document_tokens
        if len(self._trained.head(text, 0, least)) < least:
            raise _SkippedError("too_short")
        room = self._document_tokens(drawn.kind)
        part = kept_part(text, self._trained, room, self._config.cut, drawn.place)
        if self._trained.special_in(text[part.start : part.end]):
            raise _SkippedError("special_token_in_document")
        chunks = split(text, part, self._generator, self._chunk_tokens(drawn.kind), len(drawn.chunks))
        picked = pick(chunks, drawn)
        if len(picked) < len(drawn.chunks):
            raise _SkippedError("too_few_chunks")
        return part, picked

    def _room_of_document(self, kind: Kind) -> int:
        """Tokens of the document that are sure to fit beside a reply of max_tokens."""
        config = self._config
        around = self._trained.chat(Wording(kind, "", "", ("",)).messages(""))
        room = config.target_length - around - config.sampling.max_tokens - _SLACK
        if room < _LEAST_CHUNK:
            raise UserError(
                f"target_length {config.target_length}: the template takes {around} and sampling.max_tokens "
                f"{config.sampling.max_tokens} tokens, which leaves {max(room, 0)} for the document; raise it"
            )
        return room

    def _room_of_chunk(self, kind: Kind) -> int:
        """Tokens of a chunk that fit the generator, whatever the question and answer."""
        config, sampling = self._config, self._config.sampling
        pieces = [""] * (config.questions.pieces if kind == "multi_chunk" else 1)
        asked = self._generator.count(prompts.ask(kind, pieces, citation=True)) + sampling.max_tokens
        checked = self._generator.count(prompts.critique(pieces, "", "")) + sampling.max_tokens
        checked = (checked + sampling.check_max_tokens) if config.checks.critique else 0
        around = max(asked, checked) + 2 * _SLACK  # the generator's chat template
        room = config.generator.context_length - around
        if room < _LEAST_CHUNK * len(pieces):
            raise UserError(
                f"generator.context_length {config.generator.context_length}: prompts and replies take {around} "
                f"tokens, which leaves {max(room, 0)} for the text; raise it, or lower sampling.max_tokens"
            )
        return min(room, config.chunk_tokens or room) // len(pieces)


class _SkippedError(Exception):
    """A document that nothing can be asked about."""


def _places(instance: Instance) -> dict[str, Any]:
    return {
        "kept_char_start": instance.kept.start,
        "kept_char_end": instance.kept.end,
        "kept_tokens": instance.document_tokens,
        "total_tokens": instance.tokens,
        "chunk_token_start": [start for start, _ in instance.chunk_tokens],
        "chunk_token_end": [end for _, end in instance.chunk_tokens],
    }
