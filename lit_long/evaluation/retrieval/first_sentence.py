"""First-sentence retrieval: give back the sentence that a long text begins with (paper, section 4.1 and figure 5b).

The paper prompts for the first sentence and scores ROUGE-L at 256 to 30k tokens, because every variant but plain RoPE
solves passkeys. Its wording and documents are not published; ours are below. A sentence ends with the first token that
ends with a full stop, question or exclamation mark, or a blank line; those of fewer than 6 or more than 64 tokens are
not taken. Beside ROUGE-L of greedy decoding stand the teacher-forced copy (every token the most likely one) and the
loss of the sentence, with the same text without its first sentence as control: small models hardly follow a request,
and their loss says all the same whether they look back.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.errors import UserError
from lit_long.evaluation.answers import answer
from lit_long.evaluation.retrieval.haystack import Haystack

NAME = "first_sentence"
QUESTION = "\n\nThe first sentence of the text above is:"
LENGTHS = (256, 1024, 2048, 4096, 8192, 10_240, 12_288, 14_336, 16_384, 20_480, 24_576, 28_672, 30_720)
_LEAST, _MOST, _TRIES = 6, 64, 200

Int64 = npt.NDArray[np.int64]


def draw(haystack: Haystack, room: int, rng: np.random.Generator) -> tuple[Int64, Int64, str]:
    """A text, the same without its first sentence, and that sentence.

    Args:
        haystack: real text.
        room: tokens of the text and of the sentence behind the question, together.
        rng: what is random.

    Returns:
        int64 [room] each, of which the caller cuts what the answer needs, and the sentence's text.

    Raises:
        UserError: no stretch of the text begins with a sentence of the lengths taken.
    """
    for _ in range(_TRIES):
        stretch = haystack.stretch(room + _MOST, rng)
        ends = haystack.sentence_starts(stretch[: _MOST + 2])[1:]
        if len(ends) and _LEAST <= ends[0] <= _MOST:
            size = int(ends[0])
            sentence = str(haystack.tokenizer.decode(stretch[:size])).strip()
            if sentence:
                return stretch[:room], stretch[size : size + room], sentence
    raise UserError(
        f"first_sentence: {_TRIES} stretches of {haystack.name!r} begin with no sentence of {_LEAST} to {_MOST} "
        f"tokens; take running text"
    )


def copied(model: Any, tokenizer: Any, prompt: Int64, reference: str) -> dict[str, Any]:
    """What greedy decoding gives, up to its first sentence's end, and its ROUGE-L F-measure against ``reference``.

    Args:
        model: a transformers causal LM in eval mode.
        tokenizer: its own.
        prompt: int64 [tokens]: text and question.
        reference: the sentence.
    """
    [given] = answer(model, tokenizer, [prompt.tolist()], new_tokens=_MOST)
    text = given.text.strip()
    end = min((place + 1 for mark in ".!?" if (place := text.find(mark)) >= 0), default=len(text))
    text = text[: max(end, text.find(reference) + len(reference) if reference in text else 0)]
    return {"rouge_l": float(_scorer().score(reference, text)["rougeL"].fmeasure), "given": text, "wanted": reference}


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UserError("ROUGE needs the package rouge-score: pip install 'lit-long[eval]'.") from error
    return RougeScorer(["rougeL"])
