"""The README of a published dataset: what is in it, counted, and under which terms."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lit_long_hub.privacy import hub_id

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip


def corpus_card(splits: Mapping[str, Mapping[str, Any]], *, license: str | None, languages: list[str]) -> str:
    """The card of a token corpus.

    Args:
        splits: Split name to the content of its corpus.json.
        license: Hub id of the licence, None where the user gave none.
        languages: ISO 639 codes, as the user gave them.
    """
    first = next(iter(splits.values()))
    documents = sum(int(info["documents"]) for info in splits.values())
    tokenizer = first["tokenizer"]
    public = hub_id(str(tokenizer["name"]))
    lines = [
        f"# {first['name']}",
        "",
        "A token corpus for long-context training, made with `lit-long prepare`: every document whole, in its order, "
        "tokenised and ended by the end-of-sequence token.",
        "",
        "## Content",
        "",
        "| split | source | documents | tokens | licence of the texts |",
        "|---|---|---|---|---|",
    ]
    for split, info in splits.items():
        for source in info["sources"]:
            terms = source.get("license") or info.get("license") or "not stated"
            lines.append(f"| {split} | {source['name']} | {source['documents']:,} | {source['tokens']:,} | {terms} |")
    lines += [
        "",
        "## Tokenizer",
        "",
        (f"`{public}`, " if public else "")
        + f"{tokenizer['vocab_size']:,} tokens; fingerprint `{tokenizer['fingerprint']}` (`lit-long fit` refuses a "
        "model whose tokenizer has another).",
        "",
        "## Lengths",
        "",
        *_lengths(splits),
        "",
        "## Use",
        "",
        "```sh",
        "lit-long pull datasets/ORG/NAME@REVISION --output corpus   # the id of this repository",
        "lit-long fit --config recipes/quickstart.yaml --data.corpus corpus",
        "```",
        "",
        "Or `datasets.load_from_disk` on the fetched folder: column `input_ids`.",
    ]
    if first.get("versions"):
        made = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
        lines += ["", f"Made with {made}."]
    return _front(license, languages, documents, ["tokenized"]) + "\n".join(lines) + "\n"


def text_card(
    name: str,
    rows: Mapping[str, int],
    *,
    license: str | None,
    languages: list[str],
    synthesis: Mapping[str, Any] | None = None,
) -> str:
    """The card of a folder of JSON lines or Parquet.

    Args:
        name: Its title.
        rows: File name to its number of rows.
        license: Hub id of the licence, None where the user gave none.
        languages: ISO 639 codes, as the user gave them.
        synthesis: The report of ``lit-long synthesize``, if it made them.
    """
    lines = [f"# {name}", "", "| file | rows |", "|---|---|", *(f"| {file} | {n:,} |" for file, n in rows.items())]
    lines += _made(synthesis) if synthesis else []
    tags = ["synthetic"] if synthesis else []
    return _front(license, languages, sum(rows.values()), tags) + "\n".join(lines) + "\n"


def _made(report: Mapping[str, Any]) -> list[str]:
    outcomes = report["outcomes"]
    rejected = "; ".join(f"{reason} {n:,}" for reason, n in report["rejected"].items()) or "none"
    return [
        "",
        f"Questions and answers about long documents, written and checked by `{report['generator']}` with `lit-long "
        "synthesize`: machine-made, not proofread. The documents keep the licences of their sources (column "
        "`license`), and the generator's own terms may apply to what it wrote.",
        "",
        f"{report['questions']:,} questions asked: {outcomes['accepted']:,} accepted, {outcomes['rejected']:,} "
        f"rejected ({rejected}), {outcomes['failed']:,} failed, {outcomes['skipped']:,} skipped. Instances of up to "
        f"{report['target_length']:,} tokens. Columns: `messages`, and where each pair comes from.",
    ]


def _front(license: str | None, languages: list[str], rows: int, tags: list[str]) -> str:
    head: dict[str, Any] = {"license": license} if license else {}
    if languages:
        head["language"] = languages
    size = next((name for limit, name in _SIZES if rows < limit), "n>1B")
    head |= {
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["long-context", "lit-long", *tags],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n"


def _lengths(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    totals: dict[int, list[int]] = {}
    for info in splits.values():
        for bound, (documents, tokens) in info.get("length_histogram", {}).items():
            entry = totals.setdefault(int(bound), [0, 0])
            entry[0] += documents
            entry[1] += tokens
    rows = [f"| up to {bound:,} | {n:,} | {tokens:,} |" for bound, (n, tokens) in sorted(totals.items())]
    return ["| tokens of a document | documents | tokens |", "|---|---|---|", *rows]


def read_splits(folder: Path) -> dict[str, dict[str, Any]]:
    """Split name to the content of its corpus.json, in the order that dataset_dict.json names them."""
    names = json.loads((folder / "dataset_dict.json").read_text())["splits"]
    return {name: json.loads((folder / name / "corpus.json").read_text()) for name in names}
