"""Questions about a chunk of text by rule: stands where a chat model stands in ``lit-long synthesize``.

No public chat set is on the machines that run the studies, and a model that small answers nothing that it made up. So
the questions are such that the text settles the answer, word by word: what follows a phrase, which word is left out,
which sentence comes next. They are asked through the real pipeline (draws, chunks, cuts, provenance), which only sees a
client.
"""

import random
import re

from lit_long.synthesis.client import Reply, Request, Usage

RULES = {
    "follows": "Which words follow",
    "gap": "Which word is left out",
    "next": "Which sentence comes after",
}
"""Name of a rule -> how its questions begin."""

_PHRASE, _ANSWER = 6, 4  # words
_SENTENCE = (4, 24)  # words of a sentence that is asked for
_WORD = re.compile(r"[A-Za-z]{5,}")
_SHOWN = re.compile(r"<text>\n(.*)\n</text>", re.DOTALL)


def rule_of(question: str) -> str:
    """Which rule made a question."""
    return next(name for name, begin in RULES.items() if question.startswith(begin))


def pair(text: str, chance: random.Random, *, short: bool) -> tuple[str, str] | None:
    """A question about a text and its answer; None where no rule finds anything to ask.

    Args:
        text: one chunk of a document.
        chance: decides the rule and the place.
        short: an answer of a few words, else of a sentence.
    """
    if not short:
        return _next(text, chance)
    return (_follows if chance.random() < 0.5 else _gap)(text, chance)


def _follows(text: str, chance: random.Random) -> tuple[str, str] | None:
    words = text.split()
    if len(words) < 2 * (_PHRASE + _ANSWER):
        return None
    at = chance.randrange(len(words) - _PHRASE - _ANSWER)
    phrase, answer = words[at : at + _PHRASE], words[at + _PHRASE : at + _PHRASE + _ANSWER]
    return f'{RULES["follows"]} "{" ".join(phrase)}"?', " ".join(answer)


def _gap(text: str, chance: random.Random) -> tuple[str, str] | None:
    words = text.split()
    places = [i for i in range(_PHRASE, len(words) - _PHRASE) if _WORD.fullmatch(words[i])]
    if not places:
        return None
    at = chance.choice(places)
    around = [*words[at - _PHRASE : at], "___", *words[at + 1 : at + 1 + _PHRASE]]
    return f'{RULES["gap"]} here: "{" ".join(around)}"?', words[at]


def _next(text: str, chance: random.Random) -> tuple[str, str] | None:
    sentences = [part.split() for part in re.split(r"(?<=[.!?])\s+", text)]
    fewest, most = _SENTENCE
    # the first sentence of a chunk may lack its beginning, the last one its end
    places = [
        i for i in range(1, len(sentences) - 2) if all(fewest <= len(words) <= most for words in sentences[i : i + 2])
    ]
    if not places:
        return None
    at = chance.choice(places)
    return f'{RULES["next"]} "{" ".join(sentences[at])}"?', " ".join(sentences[at + 1])


class RuleClient:
    """A :class:`~lit_long.synthesis.client.Client` that answers requests for questions by rule.

    Args:
        tokenizer: counts chunks; of the model to be trained.
    """

    def __init__(self, tokenizer: object) -> None:
        self.tokenizer = tokenizer

    async def reply(self, request: Request, usage: Usage) -> Reply:
        """A question and its answer in tags, or a reply without them where there is nothing to ask."""
        shown = _SHOWN.search(request.prompt)
        assert shown is not None, "the rules know questions about one chunk"
        made = pair(shown[1], random.Random(request.seed), short="a few words only" in request.prompt)
        usage.requests += 1
        text = "nothing to ask" if made is None or any("<" in part for part in made) else _tagged(*made)
        return Reply(text, "stop", 0, 0)

    async def close(self) -> None:
        """Nothing is held."""


def _tagged(question: str, answer: str) -> str:
    return f"<question>{question}</question>\n<answer>{answer}</answer>"
