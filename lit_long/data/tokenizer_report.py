"""What tokenizers make of a user's text: tokens per byte, character and word, and the words that a context holds.

A context length is counted in tokens, and a reader counts words: a tokenizer that needs 10 % more tokens has about a
tenth less context, and pays for it at every step. Llama 2 Long names this as a limit of its 32,000 symbols, with white
space, so source code, as the worst case. Words are runs of characters between white space, which says little about
languages that write without it; compare those by characters.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lit_long.data.sources import BadRow, Document, Source, plan_items, read_item
from lit_long.data.tokenizer import load_tokenizer
from lit_long.errors import UserError


@dataclass
class TextCount:
    """The text of one source that was read; ``left_out``: bad rows, by kind. ``complete``: there was no more."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0
    lines: int = 0
    complete: bool = True
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass
class Cost:
    """Tokens of one tokenizer for one source.

    ``white``: those that are nothing but white space. ``partial``: those that are a part of a character only.
    """

    tokens: int = 0
    white: int = 0
    partial: int = 0


@dataclass(frozen=True)
class TokenizerReport:
    """Counts of each source, vocabulary of each tokenizer, and the cost of each pair (tokenizer, source)."""

    length: int
    texts: dict[str, TextCount]
    vocabulary: dict[str, int]
    costs: dict[str, dict[str, Cost]]

    def rows(self) -> list[dict[str, Any]]:
        """One row for each source and tokenizer, sources first; a source ``all`` where there are several.

        Ratios are tokens over bytes, characters, words and lines; ``words_in_context`` of ``length`` tokens;
        ``more_tokens``: than the first tokenizer (0.1 = 10 % more).
        """
        texts = dict(self.texts)
        if len(texts) > 1:
            texts["all"] = _sum(list(texts.values()))
        rows = []
        for source, text in texts.items():
            first: int | None = None
            for name, costs in self.costs.items():
                cost = costs[source] if source in costs else _sum(list(costs.values()))
                first = cost.tokens if first is None else first
                rows.append(
                    {
                        "source": source,
                        "tokenizer": name,
                        "tokens": cost.tokens,
                        "tokens_per_byte": _ratio(cost.tokens, text.bytes),
                        "tokens_per_character": _ratio(cost.tokens, text.characters),
                        "tokens_per_word": _ratio(cost.tokens, text.words),
                        "tokens_per_line": _ratio(cost.tokens, text.lines),
                        "white_share": _ratio(cost.white, cost.tokens),
                        "partial_share": _ratio(cost.partial, cost.tokens),
                        "words_in_context": _ratio(self.length * text.words, cost.tokens),
                        "more_tokens": _ratio(cost.tokens - first, first),
                    }
                )
        return rows


def tokenizer_report(
    tokenizers: Sequence[str], sources: Sequence[Source], *, length: int, max_bytes: int
) -> TokenizerReport:
    """Tokenise the beginning of each source with each tokenizer.

    Args:
        tokenizers: Hub ids or folders; the others are compared with the first.
        sources: where documents come from.
        length: context length in tokens.
        max_bytes: UTF-8 bytes of each source, about: documents are taken whole, in the source's order, until it is
            reached.

    Raises:
        UserError: a tokenizer or a source that cannot be read, two of one name, or a source without a document.
    """
    if length < 1 or max_bytes < 1:
        raise UserError(f"length is {length} and max_bytes is {max_bytes}; both must be at least 1")
    labels = [source.label for source in sources]
    for what, names in (("sources", labels), ("tokenizers", list(tokenizers))):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{what}: {', '.join(twice)} twice; give each once, and sources of one name NAME=PATH")
    if "all" in labels:
        raise UserError("a source cannot be named all, which is the sum of them; give NAME=PATH")
    loaded = {name: load_tokenizer(name) for name in tokenizers}
    spaces: dict[str, dict[int, tuple[bool, bool]]] = {name: {} for name in loaded}
    texts: dict[str, TextCount] = {}
    costs: dict[str, dict[str, Cost]] = {name: {} for name in loaded}
    for source in sources:
        text = texts[source.label] = TextCount()
        for name in loaded:
            costs[name][source.label] = Cost()
        for document in _documents(source, text, max_bytes):
            text.documents += 1
            text.bytes += len(document.encode())
            text.characters += len(document)
            text.words += len(document.split())
            text.lines += len(document.splitlines())
            for name, tokenizer in loaded.items():
                _count(costs[name][source.label], tokenizer, spaces[name], document)
        if not text.documents:
            raise UserError(f"source {source.label!r} has no document; left out: {text.left_out or 'nothing'}")
    return TokenizerReport(length, texts, {name: len(tokenizer) for name, tokenizer in loaded.items()}, costs)


def _documents(source: Source, text: TextCount, max_bytes: int) -> Iterator[str]:
    for item in plan_items([source], item_bytes=1 << 20):
        for record in read_item(item, [source]):
            if isinstance(record, Document):
                if text.bytes >= max_bytes:
                    text.complete = False
                    return
                yield record.text
            else:
                kind, count = (record.kind, 1) if isinstance(record, BadRow) else (record.reason, record.files)
                text.left_out[kind] = text.left_out.get(kind, 0) + count


def _count(cost: Cost, tokenizer: Any, known: dict[int, tuple[bool, bool]], document: str) -> None:
    import numpy as np

    found = tokenizer.backend_tokenizer.encode(document, add_special_tokens=False).ids
    cost.tokens += len(found)
    for token, times in zip(*np.unique(np.asarray(found, dtype=np.int64), return_counts=True), strict=True):
        if int(token) not in known:
            known[int(token)] = _kind(tokenizer, int(token))
        white, partial = known[int(token)]
        cost.white += white * int(times)
        cost.partial += partial * int(times)


def _kind(tokenizer: Any, token: int) -> tuple[bool, bool]:
    """Whether a token is white space only, and whether it is a part of a character only."""
    piece = tokenizer.convert_ids_to_tokens(token).replace("▁", " ")  # SentencePiece's mark, which decoding strips
    text = tokenizer.backend_tokenizer.decode([token], skip_special_tokens=False)
    return (text or piece).isspace() or piece.isspace(), "\ufffd" in text


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _sum(parts: list[Any]) -> Any:
    numbers = {key for key, value in asdict(parts[0]).items() if type(value) is int}
    return type(parts[0])(**{key: sum(getattr(part, key) for part in parts) for key in numbers})


def markdown(report: TokenizerReport) -> str:
    """The report as Markdown: what was read, and a table for each source."""
    lines = ["# Tokenizers on your text", "", "| source | documents | bytes | words | |", "|---|---:|---:|---:|---|"]
    for name, text in report.texts.items():
        note = "all of it" if text.complete else "its beginning"
        if text.left_out:
            note += "; left out: " + ", ".join(f"{kind} {count:,}" for kind, count in text.left_out.items())
        lines.append(f"| {name} | {text.documents:,} | {text.bytes:,} | {text.words:,} | {note} |")
    head = (
        "tokenizer", "vocabulary", "tokens / byte", "/ character", "/ word", "/ line", "white space only",
        "parts of characters", f"words in {report.length:,} tokens", "tokens beside the first",
    )  # fmt: skip
    for source in dict.fromkeys(row["source"] for row in report.rows()):
        lines += ["", f"## {source}", "", f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
        for row in report.rows():
            if row["source"] != source:
                continue
            ratios = [f"{row[f'tokens_per_{unit}']:.3f}" for unit in ("byte", "character", "word", "line")]
            cells = [row["tokenizer"], f"{report.vocabulary[row['tokenizer']]:,}", *ratios]
            cells += [f"{row['white_share']:.1%}", f"{row['partial_share']:.1%}", f"{row['words_in_context']:,.0f}"]
            lines.append(f"| {' | '.join([*cells, format(row['more_tokens'], '+.1%')])} |")
    return "\n".join(lines)


def write_report(report: TokenizerReport, folder: Path) -> list[Path]:
    """Write ``tokenizers.md``, ``tokenizers.json`` and ``tokenizers.png``; returns their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    from lit_long.data.tokenizer_plot import plot_tokenizers

    files = [folder / f"tokenizers.{ending}" for ending in ("md", "json", "png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files[0].write_text(markdown(report) + "\n", encoding="utf-8")
        files[1].write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
        plot_tokenizers(report, files[2])
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the report ({error.strerror or error}); choose --output DIR"
        ) from error
    return files


def as_json(report: TokenizerReport) -> dict[str, Any]:
    """The report as plain values, with the rows of :meth:`TokenizerReport.rows`."""
    texts = {name: asdict(text) for name, text in report.texts.items()}
    return {"length": report.length, "texts": texts, "vocabulary": report.vocabulary, "rows": report.rows()}
