"""Metrics against hand counts and independent packages."""

import itertools

import pytest

from lit_long.errors import UserError
from lit_long.evaluation.long_qa.metrics import combine, score


def test_f1_and_exact_match_take_the_best_reference():
    assert score("f1", "The cat sat.", ["dog", "a cat"]) == {"f1": pytest.approx(200 / 3)}
    assert score("exact_match", "The Cat!", ["dog", "a cat"]) == {"exact_match": 100}
    assert score("f1", "", ["a cat"]) == {"f1": 0}


def test_rouge_geo_is_a_mean_of_tasks_not_of_rows():
    rows = [score("rouge_geo", "a b c d", ["a b c d"]), score("rouge_geo", "a x", ["a y", "q"])]
    assert rows[0] == {"rouge1": 100, "rouge2": 100, "rougeL": 100}
    assert rows[1] == {"rouge1": 50, "rouge2": 0, "rougeL": 50}
    assert combine("rouge_geo", rows) == pytest.approx((75 * 50 * 75) ** (1 / 3))


@pytest.mark.parametrize(("said", "expected"), [("60%", 100), ("about 50 %", 50), ("80.0% or 60%", 25), ("many", 0)])
def test_exponential_similarity_halves_every_ten_points(said, expected):
    assert score("exponential_similarity", said, ["60%"])["exponential_similarity"] == pytest.approx(expected)


def test_concordance_counts_ordered_pairs():
    right = [4, 2, 1, 3]
    for said in itertools.permutations(right):
        pairs = list(itertools.combinations(right, 2))
        expected = 100 * sum(said.index(a) < said.index(b) for a, b in pairs) / len(pairs)
        found = score("concordance", ", ".join(map(str, said)), ["4, 2, 1, 3"])["concordance"]
        assert found == pytest.approx(expected), said
    assert score("concordance", "4, 2, 1", ["4, 2, 1, 3"])["concordance"] == 0
    assert score("concordance", "4, 2, 1, 1", ["4, 2, 1, 3"])["concordance"] == 0
    assert score("concordance", "The order is: 4 2 1 3.", ["4, 2, 1, 3"])["concordance"] == 100


def test_options():
    assert score("accuracy", "The answer is (B).", ["(B) A goose"])["accuracy"] == 100
    assert score("accuracy", "An owl; C", ["(B) A goose"])["accuracy"] == 0
    assert score("accuracy", "Bees", ["B"])["accuracy"] == 0


@pytest.mark.parametrize(
    ("said", "right", "expected"),
    [
        ("A", "A", 100),
        ("AB", "BA", 100),
        ("A, C", "AC", 100),
        ("A", "AC", 25),
        ("AD", "AC", 0),
        ("(B) the", "B", 100),
        ("The answer is C.", "C", 100),
        ("Apples", "A", 0),
        ("", "A", 0),
        ("A and B", "AB", 100),
    ],
)
def test_exam(said, right, expected):
    assert score("exam", said, [right])["exam"] == expected


def test_topic_is_contained():
    assert score("contains", "The first topic was The Benefits of Tea.", ["the benefits of  tea"])["contains"] == 100
    assert score("contains", "coffee\nthe benefits of tea", ["the benefits of tea"])["contains"] == 0


def test_no_reference_is_an_error_and_never_a_score():
    with pytest.raises(UserError, match="no reference answers for the metric 'f1'"):
        score("f1", "anything", [])
    with pytest.raises(UserError, match="hold no percentage"):
        score("exponential_similarity", "60%", ["sixty"])
