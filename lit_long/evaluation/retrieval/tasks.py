"""What is hidden and what is asked: passkey, needles (one, several keys, values or questions), chains, word counts.

The generators follow the definitions of the passkey test (Mohtashami and Jaggi 2023), of needles in a haystack and of
RULER (Hsieh et al. 2024), in our own words. Each makes a :class:`Puzzle`: sentences to hide, a question, and the one
answer in the order that the text gives it in, so that teacher forcing decides it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

PLACES = [
    "Aleppo",
    "Bergen",
    "Cardiff",
    "Dakar",
    "Esbjerg",
    "Fresno",
    "Galway",
    "Hanoi",
    "Ibadan",
    "Jaipur",
    "Kazan",
    "Leiden",
    "Malmo",
    "Nairobi",
    "Oslo",
    "Porto",
    "Quito",
    "Riga",
    "Seoul",
    "Tampere",
    "Utrecht",
    "Varna",
    "Windhoek",
    "Xiamen",
    "York",
    "Zagreb",
]
_WORDS = [
    "anchor",
    "basket",
    "candle",
    "dagger",
    "eagle",
    "feather",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "mirror",
    "needle",
    "orchard",
    "pepper",
    "quiver",
    "ribbon",
    "saddle",
    "timber",
    "umbrella",
    "valley",
    "window",
    "yarn",
    "apron",
    "bridge",
    "carpet",
    "drawer",
    "engine",
    "fiddle",
    "goblet",
    "harvest",
    "ivory",
    "jungle",
    "kitchen",
    "lantern",
    "marble",
    "napkin",
    "oyster",
    "pillow",
    "quarry",
    "rocket",
    "shovel",
    "tunnel",
    "vessel",
    "wagon",
    "blanket",
    "cannon",
]


@dataclass(frozen=True)
class Puzzle:
    """What is hidden in a text, and what is asked about it.

    Attributes:
        hidden: sentences to hide; the first stands at the depth asked for, the others are spread over the text.
        question: stands behind the text.
        answer: what must follow the question.
        ordered: whether the answer follows the order of ``hidden``; then all are spread evenly, shifted by the depth.
        counts: of word lists, which make the whole text: how often each of ``hidden`` stands in a round of the list.
    """

    hidden: tuple[str, ...]
    question: str
    answer: str
    ordered: bool = False
    counts: tuple[int, ...] = ()


def passkey(rng: np.random.Generator) -> Puzzle:
    """One five-digit key."""
    key = str(rng.integers(10_000, 100_000))
    hidden = f" The pass key is {key}. Remember it. {key} is the pass key."
    return Puzzle((hidden,), " What is the pass key? The pass key is", f" {key}")


def needle(rng: np.random.Generator) -> Puzzle:
    """One seven-digit number of one place."""
    place, number = str(rng.choice(PLACES)), str(rng.integers(1_000_000, 10_000_000))
    return Puzzle((fact(place, number),), asked(place), f" {number}")


def multi_key(rng: np.random.Generator) -> Puzzle:
    """Four places with a number each; one of them is asked for."""
    places = [str(place) for place in rng.choice(PLACES, 4, replace=False)]
    numbers = [str(rng.integers(1_000_000, 10_000_000)) for _ in places]
    hidden = tuple(fact(*pair) for pair in zip(places, numbers, strict=True))
    return Puzzle(hidden, asked(places[0]), f" {numbers[0]}")


def multi_value(rng: np.random.Generator) -> Puzzle:
    """One place with four numbers, all asked for in the order of the text."""
    place = str(rng.choice(PLACES))
    numbers = [str(rng.integers(1_000_000, 10_000_000)) for _ in range(4)]
    question = f" All the registered numbers of {place}, in the order of the text above, are"
    return Puzzle(tuple(fact(place, number) for number in numbers), question, " " + ", ".join(numbers), ordered=True)


def multi_query(rng: np.random.Generator) -> Puzzle:
    """Four places with a number each, all asked for by name."""
    places = [str(place) for place in rng.choice(PLACES, 4, replace=False)]
    numbers = [str(rng.integers(1_000_000, 10_000_000)) for _ in places]
    hidden = tuple(fact(*pair) for pair in zip(places, numbers, strict=True))
    named = ", ".join(places)
    question = f" The registered numbers of {named}, in this order, are"
    return Puzzle(hidden, question, " " + ", ".join(numbers), ordered=True)


def variable_tracking(rng: np.random.Generator) -> Puzzle:
    """A chain of five variables, each set to the one before; which of them have the first one's value?"""
    names = ["".join(rng.choice(list("ABCDEFGHJKLMNPQRSTUVWXYZ"), 3)) for _ in range(5)]
    value = str(rng.integers(10_000, 100_000))
    hidden = [f" Note: VAR {names[0]} = {value}."]
    hidden += [f" Note: VAR {after} = VAR {before}." for before, after in pairwise(names)]
    question = f" The variables that have the value {value}, in the order of the text above, are"
    return Puzzle(tuple(hidden), question, " " + ", ".join(names), ordered=True)


def common_words(rng: np.random.Generator) -> Puzzle:
    """A long list of words, three of them ten times as often as the others; which are they?"""
    return _word_list(rng, common=3, times=10)


def frequent_word(rng: np.random.Generator) -> Puzzle:
    """A long list of words whose frequency falls as 1 / rank^2; which is the most frequent?"""
    words = [str(word) for word in rng.permutation(_WORDS)]
    counts = tuple(max(1, round(60 / rank**2)) for rank in range(1, len(words) + 1))
    return Puzzle(tuple(words), " The most frequent word of the list above is", f" {words[0]}", counts=counts)


def _word_list(rng: np.random.Generator, *, common: int, times: int) -> Puzzle:
    words = [str(word) for word in rng.permutation(_WORDS)]
    counts = tuple(times if number < common else 1 for number in range(len(words)))
    chosen = sorted(words[:common])
    question = f" The {common} words of the list above that come most often, in alphabetical order, are"
    return Puzzle(tuple(words), question, " " + ", ".join(chosen), counts=counts)


def fact(place: str, number: str) -> str:
    """The sentence that is hidden."""
    return f" The registered number of {place} is {number}."


def asked(place: str) -> str:
    """The question for a place's number."""
    return f" According to the text above, the registered number of {place} is"


TASKS: dict[str, Callable[[np.random.Generator], Puzzle]] = {
    "passkey": passkey,
    "needle": needle,
    "multi_key": multi_key,
    "multi_value": multi_value,
    "multi_query": multi_query,
    "variable_tracking": variable_tracking,
    "common_words": common_words,
    "frequent_word": frequent_word,
}
RULER = ("multi_key", "multi_value", "multi_query", "variable_tracking", "common_words", "frequent_word")
