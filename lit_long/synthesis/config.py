"""What ``lit-long synthesize`` is asked for: documents, questions, checks, and who answers."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_long.data.sources import Source
from lit_long.errors import UserError

Kind = Literal["normal", "short", "multi_chunk", "summary"]


def at_least(what: str, given: object, limits: Mapping[str, float]) -> None:
    """Refuse numbers below their limits.

    Args:
        what: where the keys stand, such as "generator.", for the message.
        given: has the keys as attributes; None is allowed.
        limits: key -> least value.

    Raises:
        UserError: one is smaller.
    """
    for key, least in limits.items():
        if (value := getattr(given, key)) is not None and value < least:
            raise UserError(f"{what}{key} is {value}; give {least:g} or more")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a question is sampled; checks are always greedy (temperature 0).

    Args:
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 is off.
        max_tokens: longest reply with question and answer, in the generator's tokens.
        check_max_tokens: longest reply of the self-critique and of the closed-book check.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 512
    check_max_tokens: int = 256

    def __post_init__(self) -> None:
        at_least("sampling.", self, {"temperature": 0, "max_tokens": 1, "check_max_tokens": 1})
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling.top_p is {self.top_p}; give a number above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Generator:
    """The chat model that asks, answers and judges; use a subclass.

    Args:
        model: its id, as it is kept with each pair (of a local folder, only the folder's name).
        context_length: tokens that fit it, prompt and reply together.
        tokenizer: Hub id or folder of its tokenizer, to count chunks exactly; null: estimated from the tokenizer of the
            model to be trained, with a margin of a quarter.
        concurrency: documents in work at once.
    """

    model: str
    context_length: int = 4096
    tokenizer: str | None = None
    concurrency: int = 8

    def __post_init__(self) -> None:
        at_least("generator.", self, {"context_length": 64, "concurrency": 1})


@dataclass(frozen=True, kw_only=True)
class Server(Generator):
    """An OpenAI-compatible server: vLLM, TGI, llama.cpp, ``transformers serve``, or a service.

    Args:
        model: the name under which the server knows the model.
        context_length: tokens that fit it, prompt and reply together.
        tokenizer: as in :class:`Generator`.
        concurrency: documents in work at once, and so open requests.
        base_url: address up to and including ``/v1``.
        api_key_env: name of the environment variable that holds the key; null: the server asks for none.
        timeout: seconds until a request counts as lost.
        tries: how often a request is sent before its document is given up for this run.
        backoff: seconds before the second try; doubled each time up to 60, unless the server says how long to wait.
        requests_per_minute: limit over all requests of this process; null: none.
        tokens_per_minute: limit of prompt tokens and reply tokens together (the longest reply counts beforehand).
        extra_body: further keys of each request, such as ``{chat_template_kwargs: {enable_thinking: false}}``.
    """

    base_url: str
    api_key_env: str | None = None
    timeout: float = 300.0
    tries: int = 6
    backoff: float = 1.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("generator.", self, {"tries": 1, "backoff": 0})
        for key in ("timeout", "requests_per_minute", "tokens_per_minute"):
            if (value := getattr(self, key)) is not None and value <= 0:
                raise UserError(f"generator.{key} is {value}; give a number above 0")
        if not self.base_url.startswith(("http://", "https://")):
            raise UserError(
                f"generator.base_url is {self.base_url!r}; give an address such as http://localhost:8000/v1"
            )
        if reserved := sorted(self.extra_body.keys() & {"messages", "model", "seed", "temperature", "top_p", "stream"}):
            raise UserError(f"generator.extra_body: {reserved[0]} is set by lit-long; leave it out")


@dataclass(frozen=True, kw_only=True)
class Local(Generator):
    """A transformers chat model in this process.

    Args:
        model: folder or Hub id; its tokenizer has a chat template.
        context_length: tokens that fit it, prompt and reply together.
        tokenizer: null: the model's own.
        concurrency: documents in work at once; the requests of up to so many are generated as one batch.
        device: where it runs: cpu, cuda, cuda:1, ...; auto: cuda if there is one.
        dtype: of its weights: auto (as saved), float32, bfloat16, float16.
        begin_reply: write the first tag of a question's reply for the model, which may be too small to begin with it.
    """

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    begin_reply: bool = False


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked, as weights that need not add up to 1. The default is the paper's: one half each.

    Args:
        normal: a question whose answer may take sentences.
        short: a question answered in a few words.
        multi_chunk: a question that needs ``pieces`` places of the document.
        summary: a request to sum up one named part of the document.
        per_document: questions asked of each document, independently of each other.
        pieces: places of a multi_chunk question.
    """

    normal: float = 0.5
    short: float = 0.5
    multi_chunk: float = 0.0
    summary: float = 0.0
    per_document: int = 1
    pieces: int = 2

    def __post_init__(self) -> None:
        limits = {"normal": 0, "short": 0, "multi_chunk": 0, "summary": 0, "per_document": 1, "pieces": 2}
        at_least("questions.", self, limits)
        if not any(self.weights.values()):
            raise UserError("questions: all weights are 0; give at least one of normal, short, multi_chunk, summary")

    @property
    def weights(self) -> dict[Kind, float]:
        """Weight of each kind."""
        return {"normal": self.normal, "short": self.short, "multi_chunk": self.multi_chunk, "summary": self.summary}


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What a pair must pass.

    Args:
        critique: the generator is shown chunk, question and answer and must say yes.
        citation: quote: the generator must quote its evidence, and each quote must be in the chunk (white space
            aside); answer: so, and the training answer ends with the quotes.
        closed_book: a pair is rejected whose answer the generator finds without the document (not for summaries).
        closed_book_f1: word overlap (F1) from which the closed-book answer counts as found.
        short_answer_words: a longer answer to a short question is rejected.
    """

    critique: bool = True
    citation: Literal["none", "quote", "answer"] = "none"
    closed_book: bool = False
    closed_book_f1: float = 0.5
    short_answer_words: int = 30

    def __post_init__(self) -> None:
        at_least("checks.", self, {"short_answer_words": 1})
        if not 0 < self.closed_book_f1 <= 1:
            raise UserError(f"checks.closed_book_f1 is {self.closed_book_f1}; give a number above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which documents this process takes: those whose id falls to ``index`` (0 to ``count`` - 1).

    Args:
        index: which shard.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise UserError(f"shard {self.index}/{self.count}: the index runs from 0 to count - 1")


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """What ``lit-long synthesize`` reads, asks and writes.

    Args:
        tokenizer: Hub id or folder of the tokenizer of the model to be trained.
        sources: where documents come from, as in ``lit-long prepare``.
        output: the folder to write; the work so far is kept in ``.journal`` in it.
        generator: ``Server`` or ``Local``.
        target_length: tokens of a training instance: chat template, document, question and answer together.
        cut: which part of a longer document is kept. start: its beginning, as the paper; anywhere: a stretch drawn at
            random. The chunk is drawn from what is kept.
        chunk_tokens: longest chunk, in the generator's tokens; null: what fits its context.
        min_document_tokens: shorter documents are skipped and counted.
        questions: what is asked.
        checks: what a pair must pass.
        sampling: how questions are sampled.
        seed: decides, with a document's id, what is asked of it.
        share: share of the documents to use, chosen by their ids.
        max_documents: use the first so many of the (chosen) documents.
        shard: which documents this process takes.
        chat_template: file with a chat template (Jinja), for a tokenizer that has none.
        format: of the output: jsonl or parquet.
        max_bad_rows: rows that may be left out because they are no documents.
        max_failures: so many documents given up one after the other end the run: the generator is away.

    Raises:
        UserError: a number that is out of its range.
    """

    tokenizer: str
    sources: Sequence[Source]
    output: str
    generator: Generator
    target_length: int = 16_384
    cut: Literal["start", "anywhere"] = "start"
    chunk_tokens: int | None = None
    min_document_tokens: int = 1024
    questions: Questions = field(default_factory=Questions)
    checks: Checks = field(default_factory=Checks)
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    share: float = 1.0
    max_documents: int | None = None
    shard: Shard = field(default_factory=Shard)
    chat_template: str | None = None
    format: Literal["jsonl", "parquet"] = "jsonl"
    max_bad_rows: int = 0
    max_failures: int = 20

    def __post_init__(self) -> None:
        limits = {"target_length": 128, "chunk_tokens": 16, "min_document_tokens": 1, "max_documents": 1}
        at_least("", self, limits | {"max_bad_rows": 0, "max_failures": 1})
        if not 0 < self.share <= 1:
            raise UserError(f"share is {self.share}; give a number above 0 and at most 1")
        if type(self.generator) is Generator:
            raise UserError("generator: give class_path: Server (with base_url) or class_path: Local")

    @property
    def generator_name(self) -> str:
        """The generator's id without the place of a local folder."""
        model = self.generator.model
        return os.path.basename(os.path.normpath(model)) if os.path.exists(model) else model
