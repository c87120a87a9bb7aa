"""Inputs and comparisons that the tests of ``prepare`` share."""

import json
from pathlib import Path

from lit_long.data.prepare import PrepareConfig, Source


def write(path, *documents):
    """A .jsonl file of (id, text) pairs, as a source."""
    path.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in documents))
    return Source(path=str(path))


def pieces(books, size=700):
    """Real text in pieces of about ``size`` characters, as (id, text) pairs."""
    found = []
    for line in Path(books).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = [row["text"][at : at + size] for at in range(0, len(row["text"]), size)]
        found += [(f"{row['id']}-{number}", text) for number, text in enumerate(texts) if text.strip()]
    return found


def config_of(tmp_path, tokenizer_dir, *sources, output="out", **options):
    """A configuration that writes to ``tmp_path / output``, under a name that does not follow from it."""
    options.setdefault("name", "corpus")
    return PrepareConfig(tokenizer=tokenizer_dir, sources=sources, output=str(tmp_path / output), **options)


def content(folder):
    """Every file of a folder: path -> bytes."""
    folder = Path(folder)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def left(folder):
    """Names in a folder."""
    return sorted(p.name for p in folder.iterdir())
