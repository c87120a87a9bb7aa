"""The studies' texts: all books, a tenth of the manuals and of the code, each a token corpus of its own.

    python benchmarks/paper/texts.py TEXTS OUTPUT

TEXTS holds books, manuals and code as .jsonl.zst (column ``text``). A document's id is SOURCE/LINE. Those whose id's
SHA-256 (8 bytes, little-endian) begins below a tenth of 2^64 are held out from every training run, base model included;
of the rest, manuals and code keep the ids between a tenth and two tenths, so a tenth of them is held out, too.
"""

import hashlib
import io
import json
import sys
from pathlib import Path

import zstandard

HELD_OUT = 0.1
SOURCES = {"books": 1.0, "manuals": 0.1, "code": 0.1}  # share of each that is taken
TOKENIZER = "recipes/assets/quickstart/base"


def place(id_: str) -> float:
    """Where a document stands between 0 and 1, by the hash of its id; ``held_out_share`` of prepare goes by it, too."""
    return int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8], "little") / 2**64


def taken(source: str, id_: str, shares: dict[str, float] = SOURCES) -> bool:
    """Whether the studies use a document."""
    share, where = shares[source], place(id_)
    if where < HELD_OUT:
        return where < HELD_OUT * max(share, 0.5)  # half of the held-out manuals and code: enough of each
    return where < HELD_OUT + (1 - HELD_OUT) * share


def select(texts: Path, output: Path, shares: dict[str, float] = SOURCES) -> dict[str, tuple[int, int]]:
    """Write the documents taken of each source; returns (documents, characters) of each."""
    output.mkdir(parents=True, exist_ok=True)
    counts = {}
    for source in shares:
        documents = characters = 0
        with (
            (texts / f"{source}.jsonl.zst").open("rb") as packed,
            (output / f"{source}.jsonl").open("w", encoding="utf-8") as out,
        ):
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8")
            for number, line in enumerate(lines):
                id_ = f"{source}/{number}"
                if taken(source, id_, shares):
                    text = json.loads(line)["text"]
                    out.write(json.dumps({"id": id_, "text": text}, ensure_ascii=False) + "\n")
                    documents, characters = documents + 1, characters + len(text)
        counts[source] = (documents, characters)
    return counts


def prepare_all(texts: Path, output: Path, *, tokenizer: str, shares: dict[str, float] = SOURCES) -> None:
    """A token corpus of each source, with its held-out documents in a split of their own."""
    from lit_long.data.prepare import PrepareConfig, Source, prepare

    for source, (documents, characters) in select(texts, output / "texts", shares).items():
        print(f"{source}: {documents:,} documents, {characters:,} characters")
    for source in shares:
        config = PrepareConfig(
            tokenizer=tokenizer,
            sources=(Source(path=str(output / "texts" / f"{source}.jsonl"), name=source),),
            output=str(output / source),
            held_out_share=HELD_OUT,
        )
        for split, count in prepare(config).splits.items():
            print(
                f"{source} {split}: {count.documents:,} documents, {count.tokens:,} tokens, longest {count.longest:,}"
            )


def main() -> None:
    prepare_all(Path(sys.argv[1]), Path(sys.argv[2]), tokenizer=TOKENIZER)


if __name__ == "__main__":
    main()
