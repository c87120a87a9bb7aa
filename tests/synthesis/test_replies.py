"""Reading what generators write."""

import pytest

from lit_long.synthesis.config import Shard
from lit_long.synthesis.draw import draw, owns
from lit_long.synthesis.pace import Pace
from lit_long.synthesis.replies import RejectedError, check_quotes, read_pair, read_verdict, word_f1


@pytest.mark.parametrize(
    ("reply", "finish", "reason"),
    [
        ("", "stop", "empty_reply"),
        ("", "content_filter", "refused"),
        ("I cannot.", "stop", "no_tags"),
        ("<question>Who?</question> Emma", "stop", "no_answer"),
        ("<answer>Emma</answer>", "stop", "no_question"),
        ("<question>Who?</question><answer>Em", "length", "cut_off"),
        ("<question> </question><answer>Emma</answer>", "stop", "empty_question"),
        ("<question>...</question><answer>...</answer>", "stop", "empty_question"),
        ("<question>Who?</question><answer>Emma was the fi", "length", "cut_off"),
        ("<question>Who?</question><answer>...</answer>", "stop", "empty_answer"),
        ("<question>A?</question><answer>a</answer><question>B?</question><answer>b</answer>", "stop", "several_pairs"),
    ],
)
def test_replies_that_are_no_pair(reply, finish, reason):
    with pytest.raises(RejectedError, match=reason):
        read_pair(reply, finish)


@pytest.mark.parametrize(
    "reply",
    [
        "<question>Who?</question>\n<answer>Emma</answer>",
        "<question>Who?</answer>\n<answer>Emma</answer>",
        "<question>Who?\n<answer>Emma</question>",
        "Well: <question>Who?</question>\n<answer>Emma",
    ],
)
def test_tags_that_are_closed_badly(reply):
    pair = read_pair(reply, "stop")
    assert (pair.question, pair.answer) == ("Who?", "Emma")


def test_a_pair_and_its_quotes():
    pair = read_pair(
        'Sure!\n<Question>Who\nsaid it?</Question> <answer> Emma. </answer><quote>"so it is"</quote>', "stop"
    )
    assert (pair.question, pair.answer, pair.quotes) == ("Who\nsaid it?", "Emma.", ("so it is",))
    check_quotes(pair.quotes, ["and so\n it  is."])
    with pytest.raises(RejectedError, match="quote_not_found"):
        check_quotes(pair.quotes, ["so is it"])
    with pytest.raises(RejectedError, match="no_quote"):  # nothing from the second place
        check_quotes(pair.quotes, ["so it is", "another text"])


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Fine. <verdict>yes</verdict>", "yes"),
        ("<verdict>no</verdict> or rather <verdict> Yes.</verdict>", "yes"),
        ("No, it is not.", "no"),
        ("The answer yes is right", "unclear"),
        ("<verdict>maybe</verdict>", "unclear"),
        ("", "unclear"),
    ],
)
def test_verdicts(reply, verdict):
    assert read_verdict(reply) == verdict


def test_word_overlap():
    assert word_f1("It was the white Rabbit, I think.", "White Rabbit") == 1.0
    assert word_f1("I do not know.", "White Rabbit") == 0.0
    assert word_f1("one two three four five six", "one two three seven eight nine") == pytest.approx(0.5)
    assert word_f1("", "x") == 0.0


def test_draws_depend_on_seed_and_id_alone():
    weights = {"normal": 0.5, "short": 0.5, "multi_chunk": 0.0, "summary": 0.0}
    first = draw(1, "emma", 0, weights, 2)
    assert first == draw(1, "emma", 0, weights, 2)
    # what this version draws is what every later one must: pairs made before are gone on with
    assert (first.kind, first.seed) == PINNED
    others = [draw(1, f"doc-{i}", 0, weights, 2) for i in range(2000)]
    short = sum(one.kind == "short" for one in others)
    assert 900 < short < 1100  # 4.5 standard deviations around one half
    assert {one.kind for one in others} == {"normal", "short"}
    for i in range(50):
        assert sum(owns(Shard(index=k, count=7), f"doc-{i}") for k in range(7)) == 1


PINNED = ("short", 561280232)


def test_pace_books_moments_and_gives_them_back(monkeypatch):
    import asyncio

    clock, slept = [100.0], []

    async def sleep(seconds):
        slept.append(round(seconds, 6))

    monkeypatch.setattr("lit_long.synthesis.pace.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("lit_long.synthesis.pace.asyncio.sleep", sleep)
    pace = Pace(60)

    async def three():
        await pace.wait(2)
        await pace.wait(3)
        await pace.wait(1)
        pace.give_back(1)
        await pace.wait(1)
        pace.hold(30)
        await pace.wait(1)

    asyncio.run(three())
    assert slept == [2.0, 5.0, 5.0, 30.0]
