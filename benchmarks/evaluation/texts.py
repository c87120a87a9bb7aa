"""The long texts of the SmolLM2 page: a stretch of each of two documents, in which one 16K window fits.

    python benchmarks/evaluation/texts.py TEXTS OUTPUT

TEXTS holds ``books.jsonl.zst`` (columns source, id, text). Each stretch is 100,000 characters (about 25,000 tokens)
from a place drawn by the hash of the document's id; lines that only wrap a paragraph are joined. OUTPUT becomes
``held.jsonl``, for ``lit-long prepare``.
"""

import hashlib
import io
import json
import re
import sys
from pathlib import Path

import zstandard

DOCUMENTS = {
    "novels/lcet10.txt": "workshop",
    "anarchism/usr/share/doc/anarchism/html/secJ5.html": "essay",
}
CHARACTERS = 100_000


def stretch(id_: str, text: str) -> str:
    """The part of a text that is taken, unwrapped."""
    text = re.sub(r"(?<!\n)\n(?!\n)[ \t]*", " ", text.replace("\r", ""))
    where = int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8], "little") / 2**64
    # 5 to 95 % of the document: neither its front matter nor its index
    start = int((0.05 + 0.9 * where) * max(0, len(text) - CHARACTERS))
    return text[start : start + CHARACTERS]


def main() -> None:
    texts, output = Path(sys.argv[1]), Path(sys.argv[2])
    output.mkdir(parents=True, exist_ok=True)
    with (texts / "books.jsonl.zst").open("rb") as packed, (output / "held.jsonl").open("w", encoding="utf-8") as out:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8"):
            row = json.loads(line)
            id_ = f"{row['source']}/{row['id']}"
            if id_ in DOCUMENTS:
                out.write(json.dumps({"id": DOCUMENTS[id_], "text": stretch(id_, row["text"])}) + "\n")


if __name__ == "__main__":
    main()
