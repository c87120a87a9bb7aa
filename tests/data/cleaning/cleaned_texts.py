"""Texts to clean: beginnings of real books, one whole one, and what should go."""

import io
import json
import random

import zstandard

GERMAN = (
    "Es war einmal ein Müller, der hatte drei Söhne, seine Mühle, einen Esel und einen Kater. Die Söhne mussten "
    "mahlen, der Esel Getreide holen und Mehl forttragen, und die Katze die Mäuse wegfangen. Als der Müller starb, "
    "teilten sich die drei Söhne in die Erbschaft: der älteste bekam die Mühle, der zweite den "
    "Esel, der dritte den Kater. "
) * 3
GIBBERISH = "#### ... %% @@ 00 -- ## .. 11 || ~~ == qq ## && ++ 17 ** ... " * 40
LENGTH = 60_000  # characters of a beginning, about 10,000 words


def real_books(path, count):
    """The first books of the quickstart, whole."""
    rows = []
    with path.open("rb") as packed:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8"):
            rows.append(json.loads(line))
            if len(rows) == count:
                return rows
    raise AssertionError("too few books")


def edited(text, share, seed=0):
    """``text`` with about ``share`` of its words replaced."""
    chance, words = random.Random(seed), text.split(" ")
    return " ".join("otherwise" if chance.random() < share else word for word in words)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def similarity(a, b, n=5):
    """Jaccard similarity of two texts' word n-grams, counted, not estimated."""
    grams = []
    for text in (a, b):
        words = "".join(c.lower() if c.isalnum() else " " for c in text).split()
        grams.append({tuple(words[i : i + n]) for i in range(len(words) - n + 1)})
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])
