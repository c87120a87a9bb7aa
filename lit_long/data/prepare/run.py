"""The runs of ``prepare``: all on this machine, or :func:`tokenize_items` on many and :func:`finish` on one."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.corpus_writer import MAX_SOURCES
from lit_long.data.prepare.assemble import assemble
from lit_long.data.prepare.cleaned import cleaned
from lit_long.data.prepare.config import SPLITS, PrepareConfig, PrepareResult, Progress, SplitCount
from lit_long.data.prepare.document_ids import check_doubled
from lit_long.data.prepare.encoder import encoder_spec
from lit_long.data.prepare.facts import Facts, facts_of
from lit_long.data.prepare.item_writer import Job
from lit_long.data.prepare.lock import FolderLock
from lit_long.data.prepare.pool import run_items
from lit_long.data.prepare.store import DeadEndError, Store
from lit_long.data.prepare.tally import Tally, check_bad_rows
from lit_long.data.sources import Item, plan_items
from lit_long.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from lit_long.errors import UserError

_UNPACKED = 8  # at most so many times its compressed size is a text, for the number of processes worth starting


def prepare(
    config: PrepareConfig,
    progress: Callable[[Progress], None] = lambda progress: None,
    *,
    discard_unfinished: bool = False,
    cleaning: Callable[[str, int, int], None] = lambda stage, done, tasks: None,
) -> PrepareResult:
    """Tokenise the sources of ``config`` into a corpus folder; goes on with what a killed run left.

    Args:
        config: what to read and write.
        progress: called when something is done.
        discard_unfinished: throw an earlier run's unfinished work away first.
        cleaning: called with the name of a stage of the cleaning, its finished tasks and its tasks.

    Raises:
        UserError: bad sources (file and line named), too many bad rows, doubled or unknown document ids, an output
            folder that holds something else, unfinished work of other inputs, another run at work on the same output,
            a full disk, or no document left to train on.
    """
    facts, store = facts_of(config), Store(Path(config.output))
    if (existing := _existing(config, facts)) is not None:
        if store.folder.is_dir():  # killed after the corpus was moved to its place
            with _alone(config, facts, store):
                store.remove()
        return existing
    with _alone(config, facts, store):
        if discard_unfinished:
            store.discard()
        store.clean()
        work = _begin(config, facts, store, cleaning)
        found = _tokenize(work, progress, lambda number: True)
        result = _assemble(work)
        store.remove()
    result.found_items = found
    return result


def tokenize_items(
    config: PrepareConfig,
    *,
    rank: int,
    world_size: int,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Do the items whose number is ``rank`` modulo ``world_size``: one machine's share of the work.

    All ranks need the same sources and the same output, on a file system that they share. When all have ended,
    :func:`finish` puts the corpus together. A rank that was killed can be started again.

    Raises:
        UserError: as :func:`prepare` does; or the rank is at work already.
    """
    if not 0 <= rank < world_size:
        raise UserError(f"rank is {rank}; it must be between 0 and {world_size - 1}, one less than world_size")
    facts, store = facts_of(config), Store(Path(config.output))
    if _existing(config, facts) is not None:
        return
    with _explained(config, facts, store), FolderLock(store.folder, rank=rank, world_size=world_size):
        work = _begin(config, facts, store)
        _tokenize(work, progress, lambda number: number % world_size == rank)


def finish(config: PrepareConfig) -> PrepareResult:
    """Put the corpus together from the items that :func:`tokenize_items` did.

    Raises:
        UserError: items are missing (says which), a rank is still at work, or as :func:`prepare` does.
    """
    facts, store = facts_of(config), Store(Path(config.output))
    if (existing := _existing(config, facts)) is not None:
        return existing
    if not store.folder.is_dir():
        raise UserError(f"{store.folder}: no work to finish here; run tokenize_items with the same configuration first")
    with _alone(config, facts, store):
        store.clean()
        work = _begin(config, facts, store)
        _tally(work, store.done(), lambda progress: None)  # ids that two ranks used
        result = _assemble(work)
        store.remove()
    return result


@dataclass(frozen=True)
class _Work:
    """Everything that a run needs."""

    config: PrepareConfig
    reading: PrepareConfig  # the same, but for cleaned sources
    cleaning: dict[str, Any] | None
    facts: Facts
    store: Store
    job: Job
    tokenizer: dict[str, Any]

    def items(self) -> Iterator[Item]:
        """All items, from the first."""
        return plan_items(
            self.reading.sources,
            item_bytes=self.facts.item_bytes(self.config),
            max_document_bytes=self.reading.max_document_bytes,
        )


def _begin(
    config: PrepareConfig,
    facts: Facts,
    store: Store,
    tell: Callable[[str, int, int], None] = lambda stage, done, tasks: None,
) -> _Work:
    if len(config.sources) > MAX_SOURCES:
        raise UserError(f"{len(config.sources)} sources; at most {MAX_SOURCES} are possible: use directories")
    tokenizer = load_tokenizer(config.tokenizer)
    spec = encoder_spec(tokenizer)
    about = {
        "name": config.tokenizer,
        "fingerprint": tokenizer_fingerprint(tokenizer),
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos": spec.bos is not None,
    }
    key = store.begin(facts, item_bytes=facts.item_bytes(config), tokenizer=about["fingerprint"])
    held_out = frozenset(config.held_out)
    reading, report = cleaned(config, tell)
    job = Job(
        key, str(store.items), tuple(reading.sources), spec, held_out, config.held_out_share, reading.max_document_bytes
    )
    return _Work(config, reading, report, facts, store, job, about)


def _tally(work: _Work, done: dict[int, dict[str, Any]], progress: Callable[[Progress], None]) -> Tally:
    config, plan = work.reading, work.store.plan()

    def doubled(suspects: npt.NDArray[np.uint64], numbers: list[int]) -> None:
        check_doubled(suspects, work.store, numbers, config.sources, work.items(), config.max_document_bytes)

    if stray := [about["number"] for about in done.values() if about.get("key") != work.job.key]:
        raise UserError(
            f"{work.store.items}: item {stray[0]} and {len(stray) - 1} more are of other inputs or settings; give the "
            f"command again with --discard-unfinished"
        )
    return Tally(
        work.store,
        done,
        total_bytes=plan["bytes"] if plan else work.facts.raw_bytes if work.cleaning is None else None,
        max_bad_rows=config.max_bad_rows,
        doubled=doubled,
        progress=progress,
    )


def _tokenize(work: _Work, progress: Callable[[Progress], None], mine: Callable[[int], bool]) -> int:
    """Do the items that are not done; returns how many were."""
    store, done = work.store, work.store.done()
    tally = _tally(work, done, progress)
    plan = store.plan()

    def todo() -> Iterator[Item]:
        number = raw_bytes = 0
        for item in work.items():
            number, raw_bytes = item.number + 1, raw_bytes + item.size
            if item.number not in done and mine(item.number):
                yield item
        if plan is None:
            store.save_plan(number, raw_bytes)
            tally.total_bytes = raw_bytes

    if plan is not None and all(number in done or not mine(number) for number in range(plan["items"])):
        return len(done)
    most = 1 + _UNPACKED * work.facts.input_bytes // work.facts.item_bytes(work.config)
    streamed = any(source.hub is not None for source in work.reading.sources)
    run_items(todo(), work.job, work.config.cores if streamed else min(work.config.cores, most), tally.tell)
    return len(done)


def _assemble(work: _Work) -> PrepareResult:
    config, store = work.config, work.store
    done, plan = store.done(), store.plan()
    if plan is None:
        raise UserError(f"{store.folder}: no rank has read all sources yet; run tokenize_items of every rank first")
    if missing := [number for number in range(plan["items"]) if number not in done]:
        raise UserError(
            f"{store.items}: {len(missing)} of {plan['items']} items are not done yet, the first is {missing[0]}; with "
            f"N machines that is the share of rank {missing[0]} modulo N: run it again"
        )
    if facts_of(config) != work.facts:
        raise DeadEndError(
            "the sources or the tokenizer's files changed while they were read, so the work cannot be used; it is "
            "thrown away: give the command again"
        )
    return assemble(work.reading, store, done, key=work.facts.key, tokenizer=work.tokenizer, cleaning=work.cleaning)


def _existing(config: PrepareConfig, facts: Facts) -> PrepareResult | None:
    output = Path(config.output)
    if not output.exists():
        return None
    infos = {s: json.loads(f.read_text()) for s in SPLITS if (f := output / s / "corpus.json").is_file()}
    if not infos:
        if output.is_dir() and not any(output.iterdir()):
            return None  # os.replace puts a folder in the place of an empty one
        raise UserError(f"{output}: exists and is no token corpus; choose another output or remove it")
    if any(info.get("inputs") != facts.key for info in infos.values()):
        raise UserError(
            f"{output}: holds a corpus made from other sources or settings; remove it or choose another output "
            f"(it is never overwritten, because a run may be reading it)"
        )
    info = next(iter(infos.values()))
    if info["bad_rows"]:
        rows = [json.loads(line) for line in (output / "bad_rows.jsonl").read_text(encoding="utf-8").splitlines()]
        check_bad_rows(info["bad_rows"], [f"{row['place']}: {row['message']}" for row in rows], config.max_bad_rows)
    counts = {split: SplitCount(**info["counts"]) for split, info in infos.items()}
    excluded = (info.get("cleaning") or {}).get("excluded", {})
    return PrepareResult(config.output, True, counts, info["bad_rows"], info["skipped_files"], excluded)


@contextmanager
def _alone(config: PrepareConfig, facts: Facts, store: Store) -> Iterator[None]:
    """Nobody else works in the store's folder, which is left only if there is something to go on with."""
    with _explained(config, facts, store), FolderLock(store.folder):
        try:
            with _explained(config, facts, store):
                yield
        except BaseException as error:
            if isinstance(error, DeadEndError) or not any(store.items.glob("*.json")):
                store.remove()
            raise


@contextmanager
def _explained(config: PrepareConfig, facts: Facts, store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(_why(error, config, facts, store)) from error


def _why(error: OSError, config: PrepareConfig, facts: Facts, store: Store) -> str:
    reason = error.strerror or str(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"cannot write the corpus {config.output}: {reason}"
    written = sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file())
    done = sum(about["bytes"] for about in store.done().values())
    plan = store.plan()
    total = plan["bytes"] if plan else facts.raw_bytes
    need = ""
    if total is not None:
        # a token (4 bytes) stands for about 4 bytes of text; what is done says it better
        rate = written / done if done else 1.0
        need = f", what is left needs about {max(0, total - done) * rate / 1e6:,.0f} MB"
    free = shutil.disk_usage(store.folder).free / 1e6
    return (
        f"{store.folder}: {reason}: {written / 1e6:,.0f} MB written, {free:,.0f} MB free{need}. What is done is kept: "
        f"make room and give the same command again"
    )
