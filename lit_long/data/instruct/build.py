"""From chat datasets to stores: rows read, rendered, masked, fitted to length, counted."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_long.data.instruct.chat import BadExampleError, ChatFormat
from lit_long.data.instruct.formats import Format, detect, to_messages
from lit_long.data.instruct.length import TooLong, TooLongError, fit_length
from lit_long.data.instruct.rows import files_of, read_rows
from lit_long.data.instruct.store import FORMAT, StoreWriter
from lit_long.data.tokenizer import tokenizer_fingerprint
from lit_long.errors import UserError

_NAMED = 5  # bad examples that an error names


@dataclass(frozen=True, kw_only=True)
class InstructSource:
    """One source of instruction data.

    Args:
        path: chat data: a file (.jsonl[.gz|.zst], .json, .parquet), a folder of such files, or ``hub:ORG/NAME``.
        corpus: instead of ``path``: a token corpus of ``lit-long prepare``, trained on as in pretraining, every token a
            target (the paper's "+ pretraining data").
        subset: configuration of a Hub dataset.
        split: split of a Hub dataset or of ``corpus``.
        revision: revision of a Hub dataset.
        format: columns of the rows; ``auto``: seen from the first one.
        long: one example per sequence instead of packed ones; and its input counts with ``input_loss: long``.
        too_long: examples longer than a sequence: ``error``, ``drop`` (left out), ``truncate`` (the middle of the
            longest text that is not an answer is cut) or ``split`` (at rounds of the conversation).
        group: column whose value is on one side of training and validation as a whole, as questions about one document
            should be: their document is input of both, otherwise. Default: ``document_id`` where rows have it (as those
            of ``lit-long synthesize``), else each row is a group of its own.
        max_bad: examples that may be left out because they cannot be rendered or masked; one more is an error.
        license: licence, for reports and the model card.
    """

    path: str | None = None
    corpus: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    format: Format = "auto"
    long: bool = False
    too_long: TooLong = "error"
    group: str | None = None
    max_bad: int = 0
    license: str | None = None

    def check(self, name: str) -> None:
        """Refuse what cannot be meant.

        Raises:
            UserError: not exactly one of path and corpus.
        """
        if (self.path is None) == (self.corpus is None):
            raise UserError(f"data.sources.{name}: give path (chat data) or corpus (a token corpus), and not both")


@dataclass
class Counts:
    """What became of the rows of a source."""

    rows: int = 0
    examples: int = 0
    held_out: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    """Truncated, split."""
    left_out: Counter[str] = field(default_factory=Counter)
    """By reason: too long, bad."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": self.rows,
            "examples": self.examples,
            "held_out": self.held_out,
            "changed": dict(self.changed),
            "left_out": dict(self.left_out),
        }


def store_folder(
    cache: Path, name: str, source: InstructSource, form: ChatFormat, *, limit: int, held_out_share: float
) -> Path:
    """Where the store of a source is: its name has a hash of all that decides its content."""
    assert source.path is not None
    files: list[Any] = [source.path, source.subset, source.split, source.revision]
    if not source.path.startswith("hub:"):
        files = [(file.name, file.stat().st_size, _hash(file)) for file in files_of(source.path)]
    facts = [FORMAT, files, source.format, source.long, source.too_long, source.group, limit]
    facts += [held_out_share, form.template]
    key = hashlib.sha256(json.dumps([*facts, tokenizer_fingerprint(form.tokenizer)]).encode()).hexdigest()[:16]
    return cache / f"{name}-{key}"


def build_store(
    folder: Path,
    name: str,
    source: InstructSource,
    form: ChatFormat,
    *,
    limit: int,
    held_out_share: float,
    progress: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Make a store, or read what an earlier run counted where it is there.

    Raises:
        UserError: no rows, an example that is too long where that is an error, or more bad ones than ``max_bad``.
    """
    done = folder / "store.json"
    if done.is_file():
        return _counts(json.loads(done.read_text(encoding="utf-8"))["counts"])
    assert source.path is not None
    folder.parent.mkdir(parents=True, exist_ok=True)
    writer, counts, kind, bad = StoreWriter(folder), Counts(), source.format, []
    try:
        for place, row in read_rows(source.path, subset=source.subset, split=source.split, revision=source.revision):
            counts.rows += 1
            kind = detect(row, place) if kind == "auto" else kind  # type: ignore[assignment]
            try:
                messages, tools = to_messages(row, kind)
                chats, change = fit_length(form, messages, tools, limit=limit, policy=source.too_long)
            except TooLongError as error:
                if source.too_long == "error":
                    raise UserError(
                        f"{place}: {error}. Raise data.sequence_length, or set too_long of data.sources.{name} to "
                        f"drop, truncate or split"
                    ) from error
                counts.left_out["too long"] += 1
                continue
            except BadExampleError as error:
                counts.left_out["cannot be rendered or masked"] += 1
                bad.append(f"{place}: {error}")
                if len(bad) > source.max_bad:
                    raise UserError(_too_many(name, bad, source.max_bad)) from error
                continue
            group = _group(row, messages, source.group, place, name)
            held_out = _share(group) < held_out_share
            counts.changed.update([change] if change else [])
            counts.held_out += len(chats) if held_out else 0
            counts.examples += 0 if held_out else len(chats)
            for chat in chats:
                writer.add("held_out" if held_out else "train", chat, place, group)
            progress(counts)
        if not counts.examples:
            raise UserError(f"data.sources.{name}: {source.path} gave no example ({counts.rows} rows read)")
        tokenizer = form.tokenizer
        info = {
            "name": name,
            "license": source.license,
            "tokenizer": {
                "name": tokenizer.name_or_path,
                "fingerprint": tokenizer_fingerprint(tokenizer),
                "eos_token_id": tokenizer.eos_token_id,
            },
            "counts": counts.plain(),
            "bad": bad,
        }
        writer.finish(info)
    except BaseException:
        writer.abandon()
        raise
    return counts


def default_cache() -> Path:
    """Folder of stores where none is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_long" / "instruct"


def _counts(plain: dict[str, Any]) -> Counts:
    return Counts(
        plain["rows"], plain["examples"], plain["held_out"], Counter(plain["changed"]), Counter(plain["left_out"])
    )


def _group(row: dict[str, Any], messages: Any, column: str | None, place: str, name: str) -> str:
    """What decides the side of a row: its group's value, or its content, so that the same row is never on both."""
    if column is not None and row.get(column) is None:
        raise UserError(
            f"{place}: no value in the column {column!r}, which data.sources.{name}.group names; it has {sorted(row)}"
        )
    value = row.get(column or "document_id")
    if value is not None:
        return str(value)
    return hashlib.sha256(json.dumps(messages, sort_keys=True, default=str).encode()).hexdigest()


def _share(group: str) -> float:
    """Where a group stands between 0 and 1, by the hash of its name."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "little") / 2**64


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _too_many(name: str, bad: list[str], allowed: int) -> str:
    shown = "; ".join(bad[-_NAMED:])
    return (
        f"data.sources.{name}: {len(bad)} example(s) cannot be trained on, and max_bad is {allowed}: {shown}. Mend the "
        f"data, or raise max_bad to leave such examples out (they are counted)"
    )
