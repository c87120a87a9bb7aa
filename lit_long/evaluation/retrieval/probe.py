"""A probe: token ids of exactly the length asked for, with the answer at the end.

Everything is put together by token ids and never decoded and encoded again, so length and depth are exact with any
tokenizer. The same (seed, task, length, depth, sample) gives the same probe on every machine and for every model with
this tokenizer, which is what makes two models comparable probe by probe.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lit_long.errors import UserError
from lit_long.evaluation.retrieval import first_sentence
from lit_long.evaluation.retrieval.haystack import Haystack
from lit_long.evaluation.retrieval.tasks import TASKS, Puzzle

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Probe:
    """One question about one text.

    Attributes:
        ids: int64 [length]: text, question and answer.
        answer: tokens of the answer, at the end.
        control: the same without what is hidden (other text in its place), int64 [length].
        depth: where the first hidden sentence really begins, as a share of the text.
        wanted: the answer's text, where greedy decoding is to be compared with it.
    """

    ids: Int64
    answer: int
    control: Int64
    depth: float
    wanted: str | None = None


def make_probe(
    haystack: Haystack, task: str, *, length: int, depth: float, sample: int, seed: int, first: int | None = None
) -> Probe:
    """Make one probe.

    Args:
        haystack: text to hide things in.
        task: one of :data:`lit_long.evaluation.retrieval.tasks.TASKS`, or ``first_sentence``.
        length: tokens of the whole, question and answer included.
        depth: where the first hidden sentence stands, 0 (beginning) to 1 (end of the text).
        sample: number of the probe in its cell.
        seed: of everything random.
        first: token that every prompt begins with (BOS), counted in ``length``.

    Raises:
        UserError: the length is too short for what is hidden and asked, or the text too short for the length.
    """
    name = f"{seed}:{task}:{length}:{depth:g}:{sample}"
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    if task == first_sentence.NAME:
        return _first_sentence(haystack, length, rng, first)
    puzzle = TASKS[task](rng)
    question, answer = haystack.ids(puzzle.question), haystack.ids_behind(puzzle.question, puzzle.answer)
    lead = np.array([] if first is None else [first], dtype=np.int64)
    room = length - len(lead) - len(question) - len(answer)
    if puzzle.counts:
        text, plain, place = _word_text(haystack, puzzle, room, rng)
    else:
        text, plain, place = _hidden_text(haystack, puzzle, room, depth, rng)
    ids, control = (np.concatenate([lead, part, question, answer]) for part in (text, plain))
    assert len(ids) == len(control) == length
    return Probe(ids, len(answer), control, place / max(1, room))


def _first_sentence(haystack: Haystack, length: int, rng: np.random.Generator, first: int | None) -> Probe:
    question = haystack.ids(first_sentence.QUESTION)
    lead = np.array([] if first is None else [first], dtype=np.int64)
    text, plain, wanted = first_sentence.draw(haystack, length - len(lead) - len(question), rng)
    answer = haystack.ids_behind(first_sentence.QUESTION, f" {wanted}")
    room = length - len(lead) - len(question) - len(answer)
    if room < 2 * len(answer):
        raise UserError(f"a length of {length} tokens is too short for a text and its first sentence; take more")
    ids, control = (np.concatenate([lead, part[:room], question, answer]) for part in (text, plain))
    return Probe(ids, len(answer), control, 0.0, wanted)


def _hidden_text(
    haystack: Haystack, puzzle: Puzzle, room: int, depth: float, rng: np.random.Generator
) -> tuple[Int64, Int64, int]:
    hidden = [haystack.ids(sentence) for sentence in puzzle.hidden]
    size = sum(map(len, hidden))
    if room < 2 * size:
        raise UserError(
            f"a length of {room} tokens for the text is too short to hide {size} tokens in; take at least {4 * size}"
        )
    plain = haystack.stretch(room, rng)
    hay = plain[: room - size]
    others = len(hidden) - 1
    if puzzle.ordered:
        targets = [(number + depth) / len(hidden) for number in range(len(hidden))]
    else:
        targets = [depth, *((number + 0.5) / others for number in range(others))]
    places = [haystack.cut_near(hay, round(target * len(hay))) for target in targets]
    parts, before = [], 0
    for place, number in sorted(zip(places, range(len(hidden)), strict=True)):
        parts += [hay[before:place], hidden[number]]
        before = place
    return np.concatenate([*parts, hay[before:]]), plain, places[0]


def _word_text(haystack: Haystack, puzzle: Puzzle, room: int, rng: np.random.Generator) -> tuple[Int64, Int64, int]:
    """A shuffled list of words with the counts asked for, repeated to the length; the control has all alike."""
    words = [haystack.ids(f" {word}") for word in puzzle.hidden]

    def fill(counts: npt.NDArray[np.int64]) -> Int64:
        order = np.repeat(np.arange(len(words)), counts)
        made: list[Int64] = []
        size = 0
        while size < room:
            for number in rng.permutation(order):
                made.append(words[number])
                size += len(words[number])
        return np.concatenate(made)[size - room :]  # cut at the beginning, where half a word disturbs least

    if room < sum(puzzle.counts) * 2:
        raise UserError(f"a length of {room} tokens is too short for a list of {sum(puzzle.counts)} words; take more")
    return fill(np.array(puzzle.counts)), fill(np.ones(len(words), dtype=np.int64)), 0
