"""Publishes a token corpus, or JSON lines that were synthesized, as a dataset."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long_hub.dataset_card import corpus_card, read_splits, text_card
from lit_long_hub.front_matter import front_matter_problems
from lit_long_hub.licence import front_matter
from lit_long_hub.privacy import hub_id
from lit_long_hub.push import check_repo_id
from lit_long_hub.remote.client import hub_client
from lit_long_hub.remote.publish import Progress, Published, Target, Upload, publish
from lit_long_hub.safe_files import is_safe_type

_DATA = ("*.arrow", "*.jsonl", "*.jsonl.zst", "*.parquet", "*.npy")
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")


def is_corpus(folder: Path) -> bool:
    """Whether a folder is data (a token corpus, or JSON lines) and no model."""
    if (folder / "dataset_dict.json").is_file():
        return True
    if not folder.is_dir() or (folder / "config.json").is_file():
        return False
    return any(any(folder.glob(pattern)) for pattern in ("*.jsonl", "data/*.jsonl", "data/*.parquet"))


def push_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    languages: list[str] | None = None,
    tag: str | None = None,
    public: bool = False,
    message: str | None = None,
    replace: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> Published:
    """Publish a folder of ``lit-long prepare`` or ``synthesize`` (or of JSON lines) in one commit; private unless
    ``public``.

    The shards of a corpus are checked against the checksums that ``prepare`` wrote. A README.md in the folder is
    published as it is; without one a card is written from the counts.

    Args:
        folder: The corpus, what ``synthesize`` wrote, or a folder of ``*.jsonl``.
        repo_id: ``organisation/name``; created if it is not there.
        license: Hub id of the licence; needed to publish for everybody.
        languages: ISO 639 codes for the card.
        tag: Tag of the commit; made only after the commit was checked.
        public: Make the repository public, as the last step.
        message: Title of the commit.
        replace: Commit by somebody else, at the head of the repository, that may be replaced.
        endpoint: Another Hub's address.
        token: Access token; None takes ``HF_TOKEN`` or the one of ``hf auth login``.
        progress: Told about every file.

    Raises:
        UserError: No data there, damaged shards, no licence where one is needed, or the Hub refuses.
    """
    check_repo_id(repo_id)
    folder = Path(folder)
    if not is_corpus(folder):
        raise UserError(
            f"{folder} holds no corpus (dataset_dict.json), no *.jsonl and no data/*.parquet. Give what `prepare` or "
            "`synthesize` wrote."
        )
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if unsafe := [name for name in names if not is_safe_type(name)]:
        raise UserError(f"{folder} holds {unsafe[0]}: files of this kind can run code in a reader. Remove it.")
    uploads, card = (
        _corpus(folder, names, license, languages or [])
        if (folder / "dataset_dict.json").is_file()
        else _texts(folder, names, license, languages or [])
    )
    if (folder / "README.md").is_file():
        card = (folder / "README.md").read_text()
    head = front_matter(card)
    if problems := front_matter_problems(head):
        raise UserError(f"README.md of {folder}: {'; '.join(problems)}.")
    if public and not head.get("license"):
        raise UserError(
            "A dataset for everybody needs a licence: give --license with its Hub id, such as cc-by-4.0 (or write a "
            "README.md with one)."
        )
    uploads = [upload for upload in uploads if upload.path != "README.md"]
    uploads.append(Upload("README.md", card.encode()))
    target = Target(
        repo_id=repo_id,
        kind="dataset",
        message=message or "Data",
        tag=tag,
        public=public,
        replace=replace,
        stale=lambda path: any(fnmatch(path, pattern) for pattern in _DATA),
    )
    return publish(hub_client(endpoint=endpoint, token=token), target, uploads, total=len(uploads), progress=progress)


def _corpus(folder: Path, names: list[str], license: str | None, languages: list[str]) -> tuple[list[Upload], str]:
    try:
        splits = read_splits(folder)
        expected = {
            f"{split}/{shard['file']}": str(shard["sha256"])
            for split, info in splits.items()
            for shard in info["shards"]
        }
        card = corpus_card(splits, license=license, languages=languages)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is no whole corpus ({type(error).__name__}: {error}). Run `lit-long prepare` again; it goes on "
            "where it stopped."
        ) from error
    if missing := sorted(expected.keys() - set(names)):
        raise UserError(f"{folder} lacks {missing[0]}, which its corpus.json names. Run `lit-long prepare` again.")
    changed = {f"{split}/corpus.json": _public_info(info) for split, info in splits.items()}
    uploads = [Upload(name, changed.get(name, folder / name), expected.get(name)) for name in names]
    return uploads, card


def _public_info(info: dict[str, Any]) -> bytes:
    """corpus.json without the place of the tokenizer on this machine; its fingerprint is what `fit` compares."""
    tokenizer = dict(info["tokenizer"])
    tokenizer["name"] = hub_id(str(tokenizer["name"])) or Path(str(tokenizer["name"])).name
    return json.dumps(info | {"tokenizer": tokenizer}, indent=2).encode()


def _texts(folder: Path, names: list[str], license: str | None, languages: list[str]) -> tuple[list[Upload], str]:
    rows = {}
    for name in names:
        if name.endswith(".parquet"):
            rows[name] = _parquet_rows(folder / name)
        if not name.endswith(".jsonl"):
            continue
        rows[name] = 0
        with (folder / name).open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    json.loads(line)
                except ValueError as error:
                    raise UserError(f"{folder / name}, line {number} is no JSON ({error}).") from error
                if _TOKEN.search(line):
                    raise UserError(f"{folder / name}, line {number} holds an access token of the Hub. Remove it.")
                rows[name] += 1
    card = text_card(
        folder.resolve().name, rows, license=license, languages=languages, synthesis=_synthesis(folder / "report.json")
    )
    return [Upload(name, folder / name) for name in names], card


def _parquet_rows(file: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(64):
                if any(_TOKEN.search(json.dumps(row, default=str).encode()) for row in batch.to_pylist()):
                    raise UserError(f"{file} holds an access token of the Hub. Remove it.")
            return int(table.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} cannot be read ({error}). Make it again.") from error


def _synthesis(file: Path) -> dict[str, Any] | None:
    """What ``lit-long synthesize`` counted, if this is its report."""
    try:
        report = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and {"outcomes", "generator", "rejected"} <= report.keys() else None
