"""Chats of the study of instruction tuning: rule-made questions about the studies' own documents, short and long.

Training questions are about documents that the base model trained on, those that are measured about documents that no
run has seen. Long ones see up to 2,048 tokens of a document with the chunk somewhere in it, short ones a passage.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from arms import ROOT
from rules import RuleClient, rule_of
from texts import HELD_OUT, TOKENIZER, place

from lit_long.data.sources import Source
from lit_long.data.tokenizer import load_tokenizer
from lit_long.synthesis import Checks, Local, Questions, Sampling, SynthesizeConfig, synthesize

TEMPLATE = ROOT / "benchmarks" / "paper" / "recipes" / "chat.jinja"
LONG, SHORT = 2048, 320  # tokens of an instance


@dataclass(frozen=True)
class Chats:
    """One set: of which documents, how many of each source, and questions about each of them."""

    split: str
    length: int
    documents: dict[str, int]
    questions: dict[str, int]


SETS = {
    "short": Chats("train", SHORT, {"books": 100, "manuals": 60, "code": 40}, {"books": 8, "manuals": 6, "code": 6}),
    "long": Chats("train", LONG, {"books": 100, "manuals": 60, "code": 40}, {"books": 3, "manuals": 2, "code": 2}),
    "held_out_short": Chats("held_out", SHORT, {"books": 20, "manuals": 20, "code": 20}, dict.fromkeys(
        ("books", "manuals", "code"), 2)),
    "held_out_long": Chats("held_out", LONG, {"books": 14, "manuals": 14, "code": 14}, dict.fromkeys(
        ("books", "manuals", "code"), 2)),
}  # fmt: skip


def split_texts(texts: Path, output: Path) -> None:
    """The studies' documents, those that were trained on apart from those held out; made once."""
    for source in ("books", "manuals", "code"):
        files = {split: output / split / f"{source}.jsonl" for split in ("train", "held_out")}
        if all(file.exists() for file in files.values()):
            continue
        unfinished = {split: file.with_suffix(".tmp") for split, file in files.items()}
        for file in unfinished.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        with (
            (texts / f"{source}.jsonl").open(encoding="utf-8") as lines,
            unfinished["train"].open("w", encoding="utf-8") as train,
            unfinished["held_out"].open("w", encoding="utf-8") as held_out,
        ):
            for line in lines:
                (held_out if place(json.loads(line)["id"]) < HELD_OUT else train).write(line)
        for split, file in unfinished.items():
            file.replace(files[split])


def make_chats(work: Path, sets: dict[str, Chats] | None = None) -> dict[str, dict[str, int]]:
    """All sets in ``work/chats/SET``, one file a source; goes on where it was. Returns pairs by set and rule."""
    split_texts(work / "texts", work / "chats" / "texts")
    client, counts = RuleClient(load_tokenizer(TOKENIZER)), {}
    for name, chats in (sets or SETS).items():
        folder = work / "chats" / name
        folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, int] = {}
        for source in chats.documents:
            made = synthesize(_config(work, name, source, chats), client=client)
            rows = Path(made["output"]).read_bytes() if made["output"] else b""
            (folder / f"{source}.jsonl").write_bytes(rows)
            for line in rows.splitlines():
                rule = rule_of(json.loads(line)["question"])
                found[rule] = found.get(rule, 0) + 1
        counts[name] = found
    return counts


def _config(work: Path, name: str, source: str, chats: Chats) -> SynthesizeConfig:
    long = chats.length > SHORT
    return SynthesizeConfig(
        tokenizer=TOKENIZER,
        sources=(Source(path=str(work / "chats" / "texts" / chats.split / f"{source}.jsonl"), name=source),),
        output=str(work / "chats" / "made" / f"{name}_{source}"),
        generator=Local(model="rules", context_length=1024, concurrency=1),
        target_length=chats.length,
        cut="anywhere",
        chunk_tokens=256,
        min_document_tokens=chats.length if long else 128,
        questions=Questions(per_document=chats.questions[source]),
        checks=Checks(critique=False),
        sampling=Sampling(max_tokens=96),
        max_documents=chats.documents[source],
        chat_template=str(TEMPLATE),
    )


def by_rule(work: Path, name: str) -> dict[str, Path]:
    """The rows of a set in a file a rule, for measuring each by itself; rule -> file."""
    found: dict[str, list[str]] = {}
    for file in sorted((work / "chats" / name).glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            found.setdefault(rule_of(json.loads(line)["question"]), []).append(line)
    folder = work / "chats" / f"{name}_by_rule"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for rule, lines in sorted(found.items()):
        files[rule] = folder / f"{rule}.jsonl"
        files[rule].write_text("\n".join([*lines, ""]), encoding="utf-8")
    return files
