"""``lit-long evaluate --suite``: several evaluations of the same models, one folder and one report.

Each task is a command that can be run by itself (``evaluate``, ``retrieve``, ``benchmark``) with the options of its
entry in :data:`TASKS`; a further evaluation is one more entry. Tasks write into folders of their own and go on where
they were cut off. One that cannot run (a data set that cannot be had, text too short) is in the report with its reason.
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_long.errors import UserError

# What a quick suite costs is set by these two: on a 135M model at 8K it stays under 10 minutes of two CPU cores
# (benchmarks/evaluation/speed.py).
QUICK_WINDOWS = 2
QUICK_LENGTHS = 2


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a suite was asked for.

    Attributes:
        models: ``[NAME=]MODEL``, the reference first.
        corpus: token corpus with held-out documents.
        split: of it.
        length: longest prompt or window, in tokens.
        quick: few probes and windows.
        windows: of loss by position.
        seed: of everything random.
        device: torch device.
        data: folder of local data sets; None: the Hub.
        allow_beyond: lengths beyond the models' windows are asked for.
        first_token: token that every window and prompt begins with.
    """

    models: Sequence[str]
    corpus: str
    split: str
    length: int
    quick: bool
    windows: int
    seed: int
    device: str
    data: str | None
    allow_beyond: bool = False
    first_token: int | None = None

    @property
    def lengths(self) -> list[str]:
        """The length, and halves of it down to 512; two of them where it is to be quick."""
        found = [self.length]
        while found[-1] >= 1024 and len(found) < (QUICK_LENGTHS if self.quick else 6):
            found.append(found[-1] // 2)
        return [str(length) for length in sorted(found)]


def _loss(a: Asked) -> list[str]:
    windows = min(a.windows, QUICK_WINDOWS) if a.quick else a.windows
    return ["evaluate", "--length", str(a.length), "--windows", str(windows), *_text(a)]


def _retrieval(*tasks: str) -> Callable[[Asked], list[str]]:
    def words(a: Asked) -> list[str]:
        return ["retrieve", "--tasks", *tasks, "--lengths", *a.lengths, "--samples", "4", *_text(a)]

    return words


def _needles(a: Asked) -> list[str]:
    """Five needles in one text, which is read once; the other suites also take needles and passkeys by themselves."""
    if not a.quick:
        return _retrieval("passkey", "needle", "needles")(a)
    return ["retrieve", "--tasks", "needles", "--lengths", *a.lengths, "--samples", "1", "--no-control", *_text(a)]


def _first_sentence(a: Asked) -> list[str]:
    if a.quick:
        # a first sentence is decoded, so its text is read twice: not at the whole length
        lengths = sorted({"256", str(max(256, min(2048, a.length // 4)))}, key=int)
        few = ["--samples", "3", "--no-control"]
        return ["retrieve", "--tasks", "first_sentence", "--lengths", *lengths, *few, *_text(a)]
    from lit_long.evaluation.retrieval.first_sentence import LENGTHS

    lengths = [str(length) for length in LENGTHS if length <= a.length]
    return ["retrieve", "--tasks", "first_sentence", "--lengths", *lengths, "--samples", "20", *_text(a)]


def _benchmark(*tasks: str) -> Callable[[Asked], list[str]]:
    def words(a: Asked) -> list[str]:
        caps = [str(cap) for cap in (4096, 8192, 16_384, 32_768) if cap <= a.length] or [str(a.length)]
        data = [] if a.data is None else ["--data", a.data]
        return ["benchmark", "--tasks", *tasks, "--max-length", *caps, *data]

    return words


def _text(a: Asked) -> list[str]:
    first = [] if a.first_token is None else ["--first-token", str(a.first_token)]
    beyond = ["--allow-beyond"] if a.allow_beyond else []
    return ["--corpus", a.corpus, "--split", a.split, "--seed", str(a.seed), *first, *beyond]


# name -> words of its command, without the models, --output and --device
TASKS: dict[str, Callable[[Asked], list[str]]] = {
    "loss": _loss,
    "retrieval": _needles,
    "first_sentence": _first_sentence,
    "ruler": _retrieval("ruler"),
    "long_qa": _benchmark("scrolls"),
    "zero_scrolls": _benchmark("zero_scrolls"),
    "l_eval": _benchmark("l_eval"),
    "short": _benchmark("paper"),
    "safety": _benchmark("truthfulqa", "toxigen", "bold"),
}
SUITES = {
    "quick": ["loss", "retrieval", "first_sentence"],
    "paper": ["loss", "first_sentence", "long_qa", "zero_scrolls", "l_eval", "short", "safety"],
    "full": list(TASKS),
}


def run_suite(asked: Asked, names: Sequence[str], output: Path, *, as_json: bool) -> int:
    """Run tasks one after the other and write ``report.md``, ``.json`` and ``.html`` over all of them.

    Raises:
        UserError: an unknown task, or none of them could be run.
    """
    from lit_long.evaluation.html import write_html

    if unknown := [name for name in names if name not in TASKS]:
        raise UserError(f"no task {unknown[0]!r}; there are {', '.join(TASKS)}; suites are {', '.join(SUITES)}")
    parts: dict[str, dict[str, Any]] = {}
    pages, images = [], []
    for number, name in enumerate(names, 1):
        print(f"{name} ({number} of {len(names)})", file=sys.stderr)
        words = TASKS[name](asked)
        folder = output / name
        try:
            content = _run(words, asked, folder)
        except UserError as error:
            parts[name] = {"command": words[0], "failed": str(error)}
            pages.append(f"## {name}\n\nNot measured: {error}")
            continue
        parts[name] = {"command": words[0], "folder": name, "content": content}
        [page, *_] = sorted(folder.glob("*.md"))
        # headings one level down, under the task's own
        lines = [f"#{line}" if line.startswith("#") else line for line in page.read_text("utf-8").splitlines()]
        pages.append(f"## {name}\n\n" + "\n".join(lines[1:]).strip())
        images += sorted(folder.glob("*.png"))
    done = [name for name in names if "content" in parts[name]]
    if not done:
        reasons = " ".join(f"{name}: {part['failed']}" for name, part in parts.items())
        raise UserError(f"Nothing could be run. {reasons}")
    settings = {"models": list(asked.models), "length": asked.length, "corpus": Path(asked.corpus).name}
    result = {"schema": "lit-long/suite/1", "settings": settings, "tasks": parts}
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    head = (
        f"# Evaluation\n\nModels: {', '.join(asked.models)}; the first is the reference. Up to {asked.length:,} tokens."
    )
    (output / "report.md").write_text("\n\n".join([head, *pages]) + "\n", encoding="utf-8")
    page = write_html(output / "report.md", images)
    if as_json:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        failed = [name for name in names if name not in done]
        missing = f"; not measured: {', '.join(failed)}" if failed else ""
        print(f"{len(done)} of {len(names)} tasks measured ({', '.join(done)}){missing}: {page}")
    return 0


def _run(words: list[str], asked: Asked, folder: Path) -> Any:
    """Run a task's command as a user would, and return the JSON that it prints."""
    from lit_long.cli import benchmark, evaluate, retrieve

    command = {"evaluate": evaluate, "retrieve": retrieve, "benchmark": benchmark}[words[0]].COMMAND
    parser = argparse.ArgumentParser(prog=f"lit-long {words[0]}")
    command.add_arguments(parser)
    options = ["--device", asked.device, "--output", str(folder), "--json"]
    args = parser.parse_args([*asked.models, *words[1:], *options])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        command.run(args)
    return json.loads(printed.getvalue())
