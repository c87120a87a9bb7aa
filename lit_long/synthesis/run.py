"""Runs a shard of the work: documents in, at most ``concurrency`` questions at a time, each outcome to the journal."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lit_long.data.prepare.lock import FolderLock
from lit_long.data.sources import BadRow, Document, Skipped, describe_inputs, plan_items, read_item
from lit_long.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from lit_long.errors import UserError
from lit_long.synthesis import prompts
from lit_long.synthesis.client import Client
from lit_long.synthesis.config import Local, Server, SynthesizeConfig
from lit_long.synthesis.draw import chosen, owns
from lit_long.synthesis.journal import DONE, FOLDER, Journal, begin
from lit_long.synthesis.output import write_pairs
from lit_long.synthesis.pipeline import Pipeline, Question
from lit_long.synthesis.progress import Progress
from lit_long.synthesis.report import write_report
from lit_long.synthesis.tokens import Counter

_ITEM_BYTES = 8 << 20
_ESTIMATE = 1.25  # tokens of an unknown tokenizer per token of the one that is known
_UNKEYED = ("base_url", "api_key_env", "timeout", "tries", "backoff", "concurrency", "requests_per_minute",
            "tokens_per_minute", "device")  # fmt: skip


def synthesize(
    config: SynthesizeConfig, progress: Callable[[Progress], None] = lambda _: None, *, client: Client | None = None
) -> dict[str, Any]:
    """Make pairs from the documents of this shard, or go on where an earlier run stopped.

    Args:
        config: what to do.
        progress: called after each question.
        client: answers instead of ``config.generator`` (which still says what fits it).

    Returns:
        The report (:func:`lit_long.synthesis.report.write_report`) over all shards in the output folder, with
        ``output`` (the file of this shard, None without pairs).

    Raises:
        UserError: settings, documents or a generator that cannot be used; the work so far is kept.
    """
    trained, fingerprint = _trained(config)
    folder = Path(config.output) / FOLDER
    work = _work(config, fingerprint)
    begin(folder, work, only_look=True)  # before a generator is loaded for nothing
    own = client or _client(config)
    pipeline = Pipeline(config, own, trained, _counter(config, own, trained))
    begin(folder, work)
    with FolderLock(folder, rank=config.shard.index, world_size=config.shard.count):
        journal = Journal(folder, config.shard)
        state = Progress(total_documents=config.max_documents)
        try:
            outcomes = journal.open()
            state.found = sum(outcome in DONE for outcome in outcomes.values())
            state.accepted_before = sum(outcome == "accepted" for outcome in outcomes.values())
            done = {key for key, outcome in outcomes.items() if outcome in DONE}
            asyncio.run(_run(config, own, pipeline, journal, done, state, progress))
        finally:
            journal.close()
        file = write_pairs(journal.path, config, fingerprint)
    return write_report(config, state) | {"output": None if file is None else str(file)}


def _trained(config: SynthesizeConfig) -> tuple[Counter, str]:
    tokenizer = load_tokenizer(config.tokenizer)
    if config.chat_template is not None:
        try:
            tokenizer.chat_template = Path(config.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"chat_template {config.chat_template}: {error.strerror}") from error
    if not tokenizer.chat_template:
        raise UserError(
            f"tokenizer {config.tokenizer}: no chat template, so the length of an instance cannot be counted; name a "
            f"file with one in chat_template"
        )
    template = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16]
    return Counter(tokenizer), f"{tokenizer_fingerprint(tokenizer)}-{template}"


def _counter(config: SynthesizeConfig, client: Client, trained: Counter) -> Counter:
    """Counts as the generator does, or as near as can be known."""
    if config.generator.tokenizer is not None:
        return Counter(load_tokenizer(config.generator.tokenizer))
    own = getattr(client, "tokenizer", None)
    return Counter(own) if own is not None else Counter(trained.tokenizer, margin=_ESTIMATE)


def _client(config: SynthesizeConfig) -> Client:
    if isinstance(config.generator, Server):
        from lit_long.synthesis.server import ServerClient

        return ServerClient(config.generator)
    from lit_long.synthesis.local import LocalClient

    assert isinstance(config.generator, Local)
    return LocalClient(config.generator)


def _work(config: SynthesizeConfig, fingerprint: str) -> dict[str, Any]:
    """What decides the pairs; speed, places and the shard's own number do not."""
    settings = asdict(replace(config, sources=()))
    for key in ("sources", "output", "tokenizer", "chat_template", "format", "max_bad_rows", "max_failures"):
        del settings[key]
    settings["shard"] = {"count": config.shard.count}
    generator = settings.pop("generator")
    generator["model"] = config.generator_name
    generator["tokenizer"] = generator["tokenizer"] and Path(generator["tokenizer"]).name
    settings["generator"] = {key: value for key, value in generator.items() if key not in _UNKEYED}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    inputs = describe_inputs(config.sources)
    return {"settings": flat, "inputs": inputs, "tokenizer": fingerprint, "prompts": prompts.VERSION}


async def _run(
    config: SynthesizeConfig,
    client: Client,
    pipeline: Pipeline,
    journal: Journal,
    done: set[str],
    state: Progress,
    progress: Callable[[Progress], None],
) -> None:
    questions = _questions(config, done, state)
    reading = asyncio.Lock()
    in_a_row = 0

    async def work() -> None:
        nonlocal in_a_row
        while True:
            async with reading:
                question = await asyncio.to_thread(next, questions, None)
            if question is None:
                return
            state.in_work += 1
            record = await pipeline.ask(question)
            journal.append(record)
            state.in_work -= 1
            state.take(record, getattr(client, "retries", {}))
            progress(state)
            if record["detail"].get("request_refused") and not state.answered:
                raise UserError(f"{record['reason']}; check sampling and extra_body")
            in_a_row = in_a_row + 1 if record["outcome"] == "failed" else 0
            if in_a_row >= config.max_failures:
                raise UserError(
                    f"generator: {in_a_row} questions given up one after the other, the last because of "
                    f"{record['reason']}. What is done is kept: see to the generator and give the same command again"
                )

    progress(state)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(config.generator.concurrency):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        # one error ends the run; a mistake of the user's is said before what came of it
        users = errors.subgroup(UserError)
        raise _first(users or errors) from None
    finally:
        await client.close()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _questions(config: SynthesizeConfig, done: set[str], state: Progress) -> Iterator[Question]:
    """What this shard has still to ask, in the order of the documents."""
    number, seen = 0, set()
    for document, source in _documents(config, state):
        if not chosen(config.seed, document.id, config.share):
            continue
        if config.max_documents is not None and number >= config.max_documents:
            return
        number += 1
        state.documents = number
        if not owns(config.shard, document.id):
            continue
        key = hashlib.sha256(document.id.encode()).digest()[:8]
        if key in seen:
            raise UserError(
                f"{document.place}: the document id {document.id!r} was used before; give each document an id of its "
                f"own, or number them by their place with id_field: null"
            )
        seen.add(key)
        for index in range(config.questions.per_document):
            question = Question(document, source, number - 1, index)
            if question.key not in done:
                state.began = state.began or time.monotonic()
                yield question


def _documents(config: SynthesizeConfig, state: Progress) -> Iterator[tuple[Document, str]]:
    for item in plan_items(config.sources, item_bytes=_ITEM_BYTES):
        for record in read_item(item, config.sources):
            if isinstance(record, Document):
                yield record, config.sources[item.source].label
            elif isinstance(record, BadRow):
                state.bad_rows[record.kind] += 1
                if (bad := sum(state.bad_rows.values())) > config.max_bad_rows:
                    raise UserError(
                        f"{record.place}: {record.message} [{bad} bad row(s) found so far, "
                        f"{config.max_bad_rows} allowed (max_bad_rows)]"
                    )
            elif isinstance(record, Skipped):
                state.skipped_files[record.reason] += record.files
