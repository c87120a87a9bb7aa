"""Ask a model the questions of one task at one prompt cap, and keep every answer as a row.

A row has the prompt's length, how many tokens were cut, the answer, its scores and the loss of the gold answer, so that
any number in a report can be looked into. Rows of an earlier run of the same model, task and cap are taken as they are.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lit_long.attention import PACKED
from lit_long.errors import UserError
from lit_long.evaluation.answers import Gold, answer, continuation_ids, gold_behind
from lit_long.evaluation.long_qa.metrics import score
from lit_long.evaluation.long_qa.prompts import Prompt, fit_prompt
from lit_long.evaluation.long_qa.tasks import LongTask, Question
from lit_long.evaluation.raw_store import key_of
from lit_long.evaluation.rows import RowFile

# Part of every key: raise it when the meaning of stored rows changes.
_ROW_FORMAT = 1
_LOOK_AHEAD = 32  # questions that are encoded together and sorted by length
_TOKENS_PER_BATCH = 16384


class Progress(Protocol):
    """Hears how far a task is."""

    def start(self, name: str, tokens: int) -> None:
        """Task ``name`` begins, with ``tokens`` questions to answer."""

    def advance(self, tokens: int) -> None:
        """``tokens`` more questions are answered."""

    def note(self, message: str) -> None:
        """Something the user should read."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Rows of one task at one cap, and where they lie."""

    task: LongTask
    split: str
    cap: int
    rows: list[dict[str, Any]]
    file: Path
    available: int
    """Questions in the split, of which ``rows`` may be a sample."""


def ask(
    model: Any,
    tokenizer: Any,
    task: LongTask,
    questions: Sequence[Question],
    *,
    cap: int,
    folder: Path,
    model_key: str,
    progress: Progress,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    chat: tuple[str, str] | None = None,
    gold_loss: bool = True,
    batch_tokens: int = _TOKENS_PER_BATCH,
) -> Asked:
    """Answer a task's questions with prompts of at most ``cap`` tokens.

    Args:
        model: Hugging Face causal LM in eval mode, on its device.
        tokenizer: its tokenizer.
        task: the task.
        questions: from ``task.read``.
        cap: most tokens of a prompt. Where prompt and answer would pass the model's window together, the prompt is cut
            further, as far as is needed.
        folder: rows go to ``<folder>/<suite>.<task>.<split>.<cap>.jsonl``.
        model_key: changes with the model's files (:func:`lit_long.evaluation.raw_store.model_key`).
        progress: hears about questions.
        split: of the questions; default: the task's.
        limit: ask only so many, drawn at random with ``seed``.
        seed: of that draw.
        chat: from :func:`lit_long.evaluation.long_qa.prompts.chat_frame`.
        gold_loss: whether to measure the loss of the first reference, too.
        batch_tokens: prompts are answered together up to so many tokens, padding counted.

    Raises:
        UserError: the cap is longer than the model's window, or a question cannot be cut to it.
    """
    check_cap(model, cap, task.new_tokens)
    split = split or task.split
    described = [[q.id, q.document, q.references] for q in questions]
    settings = [_ROW_FORMAT, model_key, task.name, task.prompt, task.metric, task.new_tokens, task.shots]
    key = key_of([*settings, split, cap, chat, gold_loss, described])
    chosen = list(questions)
    if limit is not None and limit < len(chosen):
        chosen = random.Random(seed).sample(chosen, limit)
    file = folder / f"{task.name.replace('/', '.')}.{split}.{cap}.jsonl"
    header = {
        "key": key,
        "task": task.name,
        "split": split,
        "cap": cap,
        "prompt": task.prompt,
        "chat": chat is not None,
    }
    with RowFile(file, header) as store:
        left = [question for question in chosen if question.id not in store.rows]
        label = f"{task.name} @ {cap:,}"
        if len(left) < len(chosen):
            progress.note(f"{label}: {len(chosen) - len(left)} of {len(chosen)} answers read from {file}")
        window = window_of(model)
        if window is not None and cap > window - task.new_tokens:
            progress.note(f"{label}: prompts leave at least {task.new_tokens:,} tokens of the window for the answer")
        progress.start(label, len(left))
        alone = model.config._attn_implementation == PACKED
        if alone:
            progress.note(f"{label}: this model's attention has no cache, so every new token reads the whole prompt")
        for batch in _batches(left, model, tokenizer, task, cap, chat, 0 if alone else batch_tokens):
            golds = [_gold(question, chat) for question, _ in batch] if gold_loss else None
            answers = answer(
                model,
                tokenizer,
                [prompt.ids for _, prompt in batch],
                new_tokens=task.new_tokens,
                stop_at_newline=task.stop_at_newline,
                golds=golds,
            )
            for (question, prompt), said in zip(batch, answers, strict=True):
                store.add(_row(question, prompt, said, task))
            progress.advance(len(batch))
        rows = [store.rows[question.id] for question in chosen]
    return Asked(task=task, split=split, cap=cap, rows=rows, file=file, available=len(questions))


def check_cap(model: Any, cap: int, new_tokens: int) -> None:
    """Refuse a cap that the model's positions do not reach.

    Raises:
        UserError: with the window, and what to do.
    """
    window = window_of(model)
    if window is not None and cap > window:
        raise UserError(
            f"A prompt cap of {cap:,} tokens is beyond this model's window of {window:,} (max_position_embeddings). "
            f"Give a cap of at most {window:,}, or extend the model's positions first (train with model.rope, or load "
            "it with a scaled config)."
        )
    if cap <= new_tokens and window == cap:
        raise UserError(f"A window of {window:,} tokens has no room for {new_tokens} tokens of answer.")


def window_of(model: Any) -> int | None:
    """The number of positions that the model's config allows, if it says so."""
    window: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return window


def _gold(question: Question, chat: tuple[str, str] | None) -> Gold | None:
    if not question.references:
        return None
    return gold_behind(question.layout.text[-100:] + (chat[1] if chat else ""), question.references[0])


def _row(question: Question, prompt: Prompt, said: Any, task: LongTask) -> dict[str, Any]:
    row = {
        "id": question.id,
        "document": question.document,
        "prompt_tokens": len(prompt.ids),
        "cut_tokens": prompt.cut,
        "answer": said.text,
        "answer_tokens": said.tokens,
        "stopped": said.stopped,
        "references": list(question.references),
    }
    if question.references:
        row["scores"] = score(task.metric, said.text, question.references)
    if said.gold_nll is not None:
        row |= {"gold_nll": said.gold_nll, "gold_tokens": said.gold_tokens}
    return row


def _batches(
    questions: Sequence[Question],
    model: Any,
    tokenizer: Any,
    task: LongTask,
    cap: int,
    chat: tuple[str, str] | None,
    batch_tokens: int,
) -> Iterator[list[tuple[Question, Prompt]]]:
    """Questions with their prompts, those of like length together; encoded as they are needed, not all at once."""
    window = window_of(model)
    for start in range(0, len(questions), _LOOK_AHEAD):
        encoded = []
        for question in questions[start : start + _LOOK_AHEAD]:
            gold = _gold(question, chat)
            behind = max(task.new_tokens, len(continuation_ids(tokenizer, gold)) if gold else 0)
            limit = cap if window is None else min(cap, window - behind)
            encoded.append((question, fit_prompt(question.layout, tokenizer, limit, chat=chat)))
        encoded.sort(key=lambda pair: len(pair[1].ids))
        batch: list[tuple[Question, Prompt]] = []
        for pair in encoded:
            if batch and (len(batch) + 1) * len(pair[1].ids) > batch_tokens:
                yield batch
                batch = []
            batch.append(pair)
        if batch:
            yield batch
