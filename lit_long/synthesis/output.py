"""The pairs as people and ``datasets`` read them: chat messages, and flat columns that say where each comes from.

``data/train-00003-of-00016.jsonl`` is the name by which ``datasets.load_dataset(FOLDER)`` and the Hub know the files of
a split, so that the report beside them is not taken for data.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_long.synthesis import prompts
from lit_long.synthesis.config import Shard, SynthesizeConfig
from lit_long.synthesis.journal import FOLDER, Record, begun, journals, read

_BATCH_ROWS = 64


def write_pairs(journal: Path, config: SynthesizeConfig, tokenizer: str) -> Path | None:
    """The accepted pairs of a journal in the order of the documents; None (and no file) if there are none.

    Args:
        journal: of a shard.
        config: of the run.
        tokenizer: the fingerprint of the tokenizer that lengths were counted with.
    """
    places = sorted((r["number"], r["index"], at) for at, r in read(journal) if r["outcome"] == "accepted")
    folder = Path(config.output) / "data"
    names = {kind: folder / _name(config.shard, kind) for kind in ("jsonl", "parquet")}
    for kind, file in names.items():
        if kind != config.format or not places:
            file.unlink(missing_ok=True)
    if not places:
        return None
    folder.mkdir(exist_ok=True)
    file = names[config.format]
    rows = _rows(journal, [at for _, _, at in places], config, tokenizer)
    unfinished = file.with_name(f".{file.name}.tmp")
    _write_jsonl(unfinished, rows) if config.format == "jsonl" else _write_parquet(unfinished, rows)
    os.replace(unfinished, file)
    return file


def write_all_pairs(config: SynthesizeConfig) -> list[Path]:
    """The pairs that all journals in the output folder hold so far, whether or not their runs came to an end.

    Args:
        config: of the runs; its shard does not matter.

    Raises:
        UserError: no run was begun there.
    """
    folder = Path(config.output) / FOLDER
    files = []
    tokenizer = begun(folder)["tokenizer"]
    for journal in journals(folder):
        index, _, count = journal.stem.partition("-of-")
        shard = Shard(index=int(index), count=int(count))
        files.append(write_pairs(journal, replace(config, shard=shard), tokenizer))
    return [file for file in files if file is not None]


def row(record: Record, config: SynthesizeConfig, tokenizer: str) -> dict[str, Any]:
    """One row of the output from a journal's record."""
    detail, sampling = record["detail"], config.sampling
    return {
        "id": record["key"],
        "messages": record["messages"],
        "kind": record["kind"],
        **{key: detail[key] for key in _FROM_DETAIL},
        "critique_verdict": detail.get("critique_verdict"),
        "critique_reply": detail.get("critique_reply"),
        "closed_book_reply": detail.get("closed_book_reply"),
        "closed_book_f1": detail.get("closed_book_f1"),
        "generator": config.generator_name,
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "max_tokens": sampling.max_tokens,
        "seed": config.seed,
        "target_length": config.target_length,
        "tokenizer": tokenizer[:16],
        "prompts": prompts.VERSION,
        "requests": record["usage"]["requests"],
        "prompt_tokens": record["usage"]["prompt_tokens"],
        "completion_tokens": record["usage"]["completion_tokens"],
    }


_TEXTS = ("question", "answer", "document_id", "source", "license", "question_reply")
_NUMBERS = ("document_chars", "kept_char_start", "kept_char_end", "kept_tokens", "total_tokens", "sampling_seed")
_PLACES = ("chunk_char_start", "chunk_char_end", "chunk_token_start", "chunk_token_end")
_FROM_DETAIL = (*_TEXTS, *_NUMBERS, *_PLACES, "quotes")


def _schema() -> Any:
    """Stated, not inferred: a column in which a batch has nothing would get another type."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    kinds = {
        "id": text,
        "messages": pa.list_(pa.struct({"role": text, "content": text})),
        "kind": text,
        **dict.fromkeys(_TEXTS, text),
        **dict.fromkeys(_NUMBERS, number),
        **dict.fromkeys(_PLACES, pa.list_(number)),
        "quotes": pa.list_(text),
        **dict.fromkeys(("critique_verdict", "critique_reply", "closed_book_reply"), text),
        "closed_book_f1": pa.float64(),
        "generator": text,
        **dict.fromkeys(("temperature", "top_p"), pa.float64()),
        **dict.fromkeys(("max_tokens", "seed", "target_length"), number),
        **dict.fromkeys(("tokenizer", "prompts"), text),
        **dict.fromkeys(("requests", "prompt_tokens", "completion_tokens"), number),
    }
    return pa.schema(list(kinds.items()))


def _name(shard: Shard, kind: str) -> str:
    return f"train-{shard.index:05d}-of-{shard.count:05d}.{kind}"


def _rows(journal: Path, places: list[int], config: SynthesizeConfig, tokenizer: str) -> Iterator[dict[str, Any]]:
    with journal.open("rb") as file:
        for at in places:
            file.seek(at)
            yield row(json.loads(file.readline()), config, tokenizer)


def _write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for values in rows:
            file.write(json.dumps(values, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import itertools

    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    with path.open("wb") as file:
        with pq.ParquetWriter(file, schema) as writer:
            while batch := list(itertools.islice(rows, _BATCH_ROWS)):
                writer.write_table(pa.Table.from_pylist(batch, schema))
        file.flush()
        os.fsync(file.fileno())
