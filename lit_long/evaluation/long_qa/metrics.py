"""Scores of one answer against its references, on a scale of 0 to 100, and how a task's rows become one number.

F1 and exact match are SQuAD's (torchmetrics), ROUGE is Google's rouge-score without stemming as in SCROLLS, concordance
is Kendall's tau (SciPy) read as a share of ordered pairs. With several references the best one counts, per measure.
ROUGE-geo is the geometric mean of the three *task means*, as in SCROLLS, not a mean of geometric means.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from lit_long.errors import UserError

Scores = dict[str, float]
_ROUGE = ("rouge1", "rouge2", "rougeL")
_OPTION = re.compile(r"\b[A-D]\b")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def score(metric: str, prediction: str, references: Sequence[str]) -> Scores:
    """Scores of one answer.

    Args:
        metric: one of :data:`METRICS`.
        prediction: the answer.
        references: right answers, at least one.

    Raises:
        UserError: no references, or one that the metric cannot read.
    """
    if not references:
        raise UserError(
            f"There are no reference answers for the metric '{metric}': hidden test labels? Use the validation split, "
            "or write a submission file instead of scores."
        )
    return METRICS[metric](prediction, references)


def combine(metric: str, rows: Sequence[Scores]) -> float:
    """One number for a task from the scores of its rows."""
    means = {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
    if metric == "rouge_geo":
        return math.prod(means[name] for name in _ROUGE) ** (1 / 3)
    return means[metric]


def _f1(prediction: str, references: Sequence[str]) -> Scores:
    return {"f1": _squad(prediction, references)["f1"]}


def _exact_match(prediction: str, references: Sequence[str]) -> Scores:
    return {"exact_match": _squad(prediction, references)["exact_match"]}


def _squad(prediction: str, references: Sequence[str]) -> Scores:
    from torchmetrics.functional.text import squad

    target: Any = {"answers": {"answer_start": [0] * len(references), "text": list(references)}, "id": "0"}
    result = squad([{"prediction_text": prediction, "id": "0"}], [target])
    return {name: value.item() for name, value in result.items()}


def _rouge_geo(prediction: str, references: Sequence[str]) -> Scores:
    found = [_rouge_scorer().score(reference, prediction) for reference in references]
    return {name: 100 * max(scores[name].fmeasure for scores in found) for name in _ROUGE}


@cache
def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UserError("ROUGE needs the package rouge-score: pip install 'lit-long[eval]'.") from error
    return RougeScorer(list(_ROUGE), use_stemmer=False)


def _option(prediction: str, references: Sequence[str]) -> Scores:
    """ZeroSCROLLS' accuracy: the first letter from A to D that stands alone."""
    found, right = _OPTION.search(prediction), [_OPTION.search(reference) for reference in references]
    if not all(right):
        raise UserError(f"References {list(references)[:3]} name no option from A to D.")
    return {"accuracy": 100.0 * (found is not None and found.group() in {r.group() for r in right if r})}


def _exponential_similarity(prediction: str, references: Sequence[str]) -> Scores:
    """SpaceDigest: 0.5 to the power of the distance in steps of ten percentage points."""
    found, right = _PERCENT.search(prediction), [_PERCENT.search(reference) for reference in references]
    if not all(right):
        raise UserError(f"References {list(references)[:3]} hold no percentage.")
    if found is None:
        return {"exponential_similarity": 0.0}
    said = float(found[1])
    return {"exponential_similarity": max(100 * 0.5 ** (abs(said - float(r[1])) / 10) for r in right if r)}


def _concordance(prediction: str, references: Sequence[str]) -> Scores:
    """BookSumSort: the share of pairs in the right order; 0 for anything that is no permutation of the reference."""
    return {"concordance": max(_ordered_pairs(_integers(prediction), _integers(ref)) for ref in references)}


def _ordered_pairs(said: list[int], right: list[int]) -> float:
    if len(right) < 2 or len(set(right)) < len(right):
        raise UserError(f"A reference order {right[:10]} is no list of different numbers.")
    if sorted(said) != sorted(right):
        return 0.0
    from scipy.stats import kendalltau

    place = {number: index for index, number in enumerate(said)}
    # without ties tau = 2 * concordance - 1
    return 100 * (kendalltau([place[number] for number in right], range(len(right))).statistic + 1) / 2


def _integers(text: str) -> list[int]:
    return [int(part) for part in re.sub(r"[^0-9\s,]", "", text).replace(",", " ").split()]


def _exam(prediction: str, references: Sequence[str]) -> Scores:
    """L-Eval's multiple choice: letters A to D as a set; a quarter where only some of several right ones are named."""
    best = 0.0
    said = _letters(prediction)
    for reference in references:
        right = set(re.findall(r"[A-D]", reference.split()[0])) if reference.split() else set()
        if not right:
            raise UserError(f"An exam's reference {reference!r} names no option from A to D.")
        best = max(best, 100.0 if said == right else 25.0 if said and said < right else 0.0)
    return {"exam": best}


def _letters(text: str) -> set[str]:
    """The options an answer names: letters in front ("AB", "A, C"), else the first that stands alone."""
    front = re.match(r"\W*((?:[A-D](?:[\s,&]|and)*)+)(?![A-Za-z])", text.strip())
    if front:
        return set(re.findall(r"[A-D]", front[1]))
    found = _OPTION.search(text)
    return {found.group()} if found else set()


def _contains(prediction: str, references: Sequence[str]) -> Scores:
    """L-Eval's topic retrieval: the reference is in the answer's first line, case and spaces aside."""
    lines = [line for line in prediction.splitlines() if len(line.strip()) > 1] or [prediction]
    said = lines[0].lower().replace(" ", "")
    return {"contains": 100.0 * any(ref.lower().replace(" ", "").strip() in said for ref in references)}


METRICS: dict[str, Callable[[str, Sequence[str]], Scores]] = {
    "f1": _f1,
    "exact_match": _exact_match,
    "rouge_geo": _rouge_geo,
    "accuracy": _option,
    "exponential_similarity": _exponential_similarity,
    "concordance": _concordance,
    "exam": _exam,
    "contains": _contains,
}
