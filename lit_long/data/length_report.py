"""How long the documents of a corpus are: what a context length can hope to learn from it.

The buckets are those of corpus.json: lengths up to each power of two, in tokens. No document is read.
"""

import json
from pathlib import Path
from typing import Any

from lit_long.data.corpus import TokenCorpus
from lit_long.data.length_plot import plot_lengths
from lit_long.errors import UserError


def length_report(path: str | Path) -> dict[str, Any]:
    """Documents and tokens of each split and source by document length, as plain values.

    Args:
        path: a corpus folder, or one split's own.

    Returns:
        ``name`` and ``splits``: for each ``documents``, ``tokens``, ``buckets`` and ``sources`` (name, license and the
        same three). A bucket has ``over`` and ``up_to`` (its documents are longer than one, at most as long as the
        other, in tokens), ``documents``, ``tokens``, and ``share_in_longer``: the share of all tokens (0 to 1) that
        sits in documents longer than ``up_to``.

    Raises:
        UserError: no corpus there, or a damaged one.
    """
    folder = Path(path)
    splits = sorted((file.parent.name for file in folder.glob("*/corpus.json")), key=lambda name: name != "train")
    corpora = {split: TokenCorpus(folder, split) for split in splits} or {folder.resolve().name: TokenCorpus(folder)}
    return {
        "name": next(iter(corpora.values())).name,
        "splits": {
            split: _counted(corpus.info)
            | {
                "sources": [
                    {"name": source["name"], "license": source["license"], **_counted(source)}
                    for source in corpus.info["sources"]
                ]
            }
            for split, corpus in corpora.items()
        },
    }


def _counted(info: dict[str, Any]) -> dict[str, Any]:
    histogram = {int(bound): counts for bound, counts in info["length_histogram"].items()}
    buckets, longer, bound = [], info["tokens"], min(histogram, default=1)
    while longer:
        documents, tokens = histogram.get(bound, (0, 0))
        longer -= tokens
        buckets.append(
            {
                "over": bound // 2,
                "up_to": bound,
                "documents": documents,
                "tokens": tokens,
                "share_in_longer": longer / info["tokens"],
            }
        )
        bound *= 2
    return {"documents": info["documents"], "tokens": info["tokens"], "buckets": buckets}


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown tables: a split's buckets, and the tokens of each source in them."""
    return "\n\n".join([f"# Document lengths of {report['name']}", *(_split(*i) for i in report["splits"].items())])


def _split(name: str, split: dict[str, Any]) -> str:
    sources = split["sources"]
    several = len(sources) > 1
    head = ["tokens of a document", "documents", "tokens", "of all tokens", "in longer documents"]
    rows = [head + [source["name"] for source in sources] * several]
    by_source = [{bucket["up_to"]: bucket["tokens"] for bucket in source["buckets"]} for source in sources]
    for bucket in split["buckets"]:
        rows.append(
            [
                f"{bucket['over'] + 1:,} to {bucket['up_to']:,}",
                f"{bucket['documents']:,}",
                f"{bucket['tokens']:,}",
                f"{bucket['tokens'] / split['tokens']:.1%}",
                f"{bucket['share_in_longer']:.1%}",
                *(f"{own.get(bucket['up_to'], 0):,}" for own in by_source * several),
            ]
        )
    own = [f"{source['tokens']:,}" for source in sources] * several
    rows.append(["all", f"{split['documents']:,}", f"{split['tokens']:,}", "100.0%", "", *own])
    note = "The columns on the right are the tokens of each source." if several else ""
    licenses = "\n".join(
        f"- {source['name']}: {source['documents']:,} documents, {source['tokens']:,} tokens, licence "
        f"{source['license'] or 'not given'}"
        for source in sources
    )
    return "\n\n".join(part for part in (f"## {name}", _table(rows), note, licenses) if part)


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [aligned[0], rule, *aligned[1:]])


def write_report(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``lengths.md``, ``lengths.json`` and, for each split, ``lengths_SPLIT.png``; returns their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "lengths.md", folder / "lengths.json"]
        files[0].write_text(markdown(report) + "\n", encoding="utf-8")
        files[1].write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for name, split in report["splits"].items():
            title = f"{report['name']}: {split['documents']:,} documents, {split['tokens']:,} tokens ({name})"
            files.append(plot_lengths(split, title, folder / f"lengths_{name}.png"))
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the report ({error.strerror or error}); choose --output DIR"
        ) from error
    return files
