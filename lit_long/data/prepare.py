"""``prepare``: raw documents to a token corpus (see :mod:`lit_long.data.corpus` for what it writes).

Nothing is lost or cut: each document becomes one row with all its tokens and a final EOS, and the counts are reported.
The folder is written beside its place and moved there when it is whole, so a killed run leaves no half corpus.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lit_long.data.corpus_shard import Shard, ShardWriter
from lit_long.data.corpus_writer import shard_name, write_split, write_splits_file
from lit_long.data.sources import Document, list_files, read_documents
from lit_long.data.tokenizer import adds_bos, load_tokenizer, tokenizer_fingerprint
from lit_long.errors import UserError

BATCH_CHARS = 4_000_000  # text handed to the tokenizer's threads at once: enough to keep them busy, a few MB of memory
SPLITS = ("train", "held_out")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where documents come from.

    Args:
        path: a file (.txt, .md, .jsonl, .jsonl.gz, .jsonl.zst) or a directory of such files.
        text_field: name of the text in JSON lines.
        id_field: name of the document's id in JSON lines.
        name: the name under which the documents are counted; default: the file's name.
    """

    path: str
    text_field: str = "text"
    id_field: str = "id"
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What ``lit-long prepare`` reads and writes.

    Args:
        tokenizer: Hub id or folder of a fast tokenizer.
        sources: where documents come from, in this order.
        output: the corpus folder to write.
        name: name of the corpus in reports; default: the folder's name.
        held_out: ids of documents that training must never see; they go to the split ``held_out``.
        license: licence of the whole, if it has one, for reports and model cards.
    """

    tokenizer: str
    sources: tuple[Source, ...]
    output: str
    name: str | None = None
    held_out: tuple[str, ...] = ()
    license: str | None = None


@dataclass
class SplitCount:
    """Documents, tokens and characters of one split."""

    documents: int = 0
    tokens: int = 0
    characters: int = 0
    longest: int = 0


@dataclass
class PrepareResult:
    """What was written; ``reused`` when the corpus was there already, made from the same inputs."""

    output: str
    reused: bool
    splits: dict[str, SplitCount] = field(default_factory=dict)


def prepare(config: PrepareConfig, progress: Callable[[int], None] = lambda characters: None) -> PrepareResult:
    """Tokenise the sources of ``config`` into a corpus folder.

    Args:
        config: what to read and write.
        progress: called with the number of characters done, after each batch.

    Raises:
        UserError: bad sources (file and line named), doubled or unknown document ids, an output folder that holds
            something else, or no document left to train on.
    """
    output = Path(config.output)
    key = _inputs_key(config)
    if (existing := _existing(output, key)) is not None:
        return existing
    tokenizer = load_tokenizer(config.tokenizer)
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True)
        result = _write(config, tokenizer, partial, key, progress)
        os.replace(partial, output)
    except OSError as error:
        raise UserError(f"cannot write the corpus {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _inputs_key(config: PrepareConfig) -> str:
    """Hash of the settings and of every input file's size and time: the same key, the same corpus."""
    files = [f for source in config.sources for f in list_files(Path(source.path))]
    tokenizer = Path(config.tokenizer)
    files += [tokenizer] if tokenizer.is_file() else sorted(tokenizer.glob("tokenizer*.json"))
    seen = [(f.as_posix(), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    settings = {k: v for k, v in asdict(config).items() if k != "output"}
    return hashlib.sha256(json.dumps([settings, seen], sort_keys=True).encode()).hexdigest()


def _existing(output: Path, key: str) -> PrepareResult | None:
    if not output.exists():
        return None
    infos = {s: json.loads(f.read_text()) for s in SPLITS if (f := output / s / "corpus.json").is_file()}
    if not infos:
        if output.is_dir() and not any(output.iterdir()):
            return None  # os.replace puts a folder in the place of an empty one
        raise UserError(f"{output}: exists and is no token corpus; choose another output or remove it")
    if any(info.get("inputs") != key for info in infos.values()):
        raise UserError(
            f"{output}: holds a corpus made from other sources or settings; remove it or choose another output "
            f"(it is never overwritten, because a run may be reading it)"
        )
    return PrepareResult(str(output), True, {s: SplitCount(**info["counts"]) for s, info in infos.items()})


def _write(
    config: PrepareConfig, tokenizer: Any, folder: Path, key: str, progress: Callable[[int], None]
) -> PrepareResult:
    writers = {split: _SplitWriter(folder / split, config) for split in SPLITS}
    held_out, missing = set(config.held_out), set(config.held_out)
    for split, source, document, tokens in _tokenised(config, tokenizer, held_out, progress):
        missing.discard(document.id)
        writers[split].add(document, source, tokens)
    if missing:
        raise UserError(f"held_out: no document has the id {sorted(missing)[0]!r} ({len(missing)} unknown in all)")
    if not writers["train"].count.documents:
        why = "every document is held out" if held_out else "the sources are empty"
        raise UserError(f"no document is left to train on: {why}")
    name = config.name or Path(config.output).name
    kept = {}
    for split, writer in writers.items():
        shard = writer.close()
        if writer.count.documents:
            info = _info(config, tokenizer, writer, f"{name}/{split}" if split != "train" else name, key)
            lengths = np.asarray(writer.lengths, dtype=np.int64)
            write_split(writer.folder, [shard], [(lengths, np.asarray(writer.indices, dtype=np.uint16))], info)
            kept[split] = writer.count
        else:
            shutil.rmtree(writer.folder)
    write_splits_file(folder, list(kept))
    return PrepareResult(config.output, False, kept)


def _tokenised(
    config: PrepareConfig, tokenizer: Any, held_out: set[str], progress: Callable[[int], None]
) -> Iterator[tuple[str, int, Document, list[int]]]:
    bos = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    seen: dict[str, str] = {}
    for number, source in enumerate(config.sources):
        documents = read_documents(Path(source.path), text_field=source.text_field, id_field=source.id_field)
        for batch in _batches(documents):
            for document in batch:
                if (place := seen.get(document.id)) is not None:
                    raise UserError(
                        f"{document.place}: the document id {document.id!r} was used before, at {place}; give each "
                        f"document an id of its own, and name each source once"
                    )
                seen[document.id] = document.place
            encoded = tokenizer(
                [d.text for d in batch], add_special_tokens=False, return_attention_mask=False, verbose=False
            )["input_ids"]
            for document, ids in zip(batch, encoded, strict=True):
                split = "held_out" if document.id in held_out else "train"
                yield split, number, document, bos + ids + [tokenizer.eos_token_id]
            progress(sum(len(d.text) for d in batch))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _SplitWriter:
    """Rows of one split to an Arrow stream file, with counts and a running hash of ids and tokens."""

    def __init__(self, folder: Path, config: PrepareConfig) -> None:
        folder.mkdir()
        self.folder, self.count, self._hash = folder, SplitCount(), hashlib.sha256()
        self.names = [source.name or Path(source.path).name for source in config.sources]
        self.histograms: list[dict[str, list[int]]] = [{} for _ in self.names]
        self.licenses: list[set[str]] = [set() for _ in self.names]
        self.lengths: list[int] = []
        self.indices: list[int] = []
        self._writer = ShardWriter(folder / shard_name(0, 1))

    def add(self, document: Document, source: int, tokens: list[int]) -> None:
        ids = np.asarray(tokens, dtype=np.int32)
        self._writer.add(document.id, ids, self.names[source])
        self._hash.update(document.id.encode() + b"\0" + source.to_bytes(2, "little") + ids.tobytes())
        self.count.documents += 1
        self.count.tokens += len(ids)
        self.count.characters += len(document.text)
        self.count.longest = max(self.count.longest, len(ids))
        self.lengths.append(len(ids))
        self.indices.append(source)
        bucket = self.histograms[source].setdefault(str(1 << (len(ids) - 1).bit_length()), [0, 0])
        bucket[0] += 1
        bucket[1] += len(ids)
        if document.license:
            self.licenses[source].add(document.license)

    def close(self) -> Shard:
        return self._writer.close()

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()


def _info(config: PrepareConfig, tokenizer: Any, writer: _SplitWriter, name: str, key: str) -> dict[str, Any]:
    """The content of corpus.json."""
    whole: dict[str, list[int]] = {}
    for histogram in writer.histograms:
        for bound, counts in histogram.items():
            whole[bound] = [a + b for a, b in zip(whole.get(bound, [0, 0]), counts, strict=True)]
    licenses = set().union(*writer.licenses)
    return {
        "name": name,
        "counts": asdict(writer.count),
        "sources": [
            {
                "name": name,
                "documents": sum(documents for documents, _ in histogram.values()),
                "tokens": sum(tokens for _, tokens in histogram.values()),
                "license": ", ".join(sorted(own)) or None,
                "length_histogram": _by_length(histogram),
            }
            for name, histogram, own in zip(writer.names, writer.histograms, writer.licenses, strict=True)
        ],
        # upper bound of the length in tokens (a power of two) -> [documents, tokens]
        "length_histogram": _by_length(whole),
        "license": config.license or (", ".join(sorted(licenses)) or None),
        "tokenizer": {
            "name": config.tokenizer,
            "fingerprint": tokenizer_fingerprint(tokenizer),
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "bos": adds_bos(tokenizer),
        },
        "fingerprint": writer.fingerprint,
        "inputs": key,
    }


def _by_length(histogram: dict[str, list[int]]) -> dict[str, list[int]]:
    return dict(sorted(histogram.items(), key=lambda item: int(item[0])))
