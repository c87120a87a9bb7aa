"""Human preference by simulation: raters with known tastes come out as they are, blind to names and places."""

import csv
import json
import random

import pytest

from lit_long.entry import main
from lit_long.errors import UserError
from lit_long.evaluation.preference.sheets import Pair, export_sheets, read_pairs
from lit_long.evaluation.preference.votes import count, import_votes


def answers(path, model, ids):
    rows = [{"id": str(i), "prompt": f"prompt {i}", "answer": f"{model} says {i}"} for i in ids]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fill(path, choose):
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["better"] = choose(row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_from_files_to_shares(tmp_path, capsys):
    ours, theirs = answers(tmp_path / "a.jsonl", "good", range(40)), answers(tmp_path / "b.jsonl", "bad", range(40))
    output = tmp_path / "sheets"
    assert main(["preference", "export", f"long={ours}", f"base={theirs}", "--output", str(output)]) == 0
    assert main(["preference", "import", str(output)]) == 2
    assert "hold no votes yet" in capsys.readouterr().err

    places, orders = set(), []
    for rater in (1, 2, 3):
        sheet = output / f"rater-{rater}.csv"
        for secret in ("long", "base", "swapped"):
            assert secret not in sheet.read_text(encoding="utf-8-sig")
        # a rater who prefers "good" in prompts under 20, is undecided under 30, and prefers "bad" else
        rows = fill(sheet, _taste)
        orders.append([row["prompt"] for row in rows])
        places |= {row["answer_1"].split()[0] for row in rows}
    assert places == {"good", "bad"}  # either model stands first
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert main(["preference", "import", str(output), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[o]["share"] for o in ("win", "tie", "loss")] == [50, 25, 25]
    assert (found["votes"], found["prompts"], found["unanimous"]) == (120, 40, 100)
    assert found["models"] == ["long", "base"]
    assert "GPT-4 | 25.0 | 30.0 | 45.0" in (output / "preference.md").read_text()


def _taste(row):
    number = int(row["prompt"].split()[1])
    if 20 <= number < 30:
        return "Tie"
    wanted = "good" if number < 20 else "bad"
    return "1" if row["answer_1"].startswith(wanted) else "2"


@pytest.mark.parametrize("raters", [1, 3])
def test_intervals_cover_the_truth_as_often_as_they_say(raters):
    draw, hits, runs = random.Random(0), 0, 400
    for _ in range(runs):
        outcomes = {}
        for prompt in range(80):
            # raters of a prompt share its leaning, so they are not independent; win 0.4 over all
            lean = draw.choice([0.1, 0.7])
            outcomes[str(prompt)] = ["win" if draw.random() < lean else "loss" for _ in range(raters)]
        share = count(outcomes, ("a", "b")).shares["win"]
        hits += share.low <= 40 <= share.high
    assert 0.92 <= hits / runs <= 0.985, hits


def test_wilson_for_one_rater_is_scipys():
    from scipy.stats import binomtest

    votes = ["win"] * 3 + ["loss"] * 7
    preference = count({str(i): [vote] for i, vote in enumerate(votes)}, ("a", "b"))
    assert preference.interval == "Wilson"
    for outcome, found in preference.shares.items():
        expected = binomtest(votes.count(outcome), 10).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_formulas_are_not_run_by_spreadsheets(tmp_path):
    pair = Pair("1", "=1+1", "@SUM(A1)", "plain")
    export_sheets([pair], ("a", "b"), tmp_path, raters=1, seed=0)
    with (tmp_path / "rater-1.csv").open(newline="", encoding="utf-8-sig") as file:
        [row] = csv.DictReader(file)
    assert row["prompt"] == "'=1+1"
    assert {row["answer_1"], row["answer_2"]} == {"'@SUM(A1)", "plain"}
    assert json.loads((tmp_path / "rater-1.jsonl").read_text())["prompt"] == "=1+1"


def test_mistakes_in_sheets_are_named(tmp_path):
    ours, theirs = answers(tmp_path / "a.jsonl", "good", range(3)), answers(tmp_path / "b.jsonl", "bad", range(3))
    pairs, output = read_pairs(ours, theirs), tmp_path / "sheets"
    export_sheets(pairs, ("a", "b"), output, raters=1, seed=0)
    sheet = output / "rater-1.csv"
    with pytest.raises(UserError, match="has a key already"):
        export_sheets(pairs, ("a", "b"), output, raters=1, seed=1)
    fill(sheet, lambda row: "first")
    with pytest.raises(UserError, match="rated 'first'; allowed are 1, 2 and tie"):
        import_votes(output)
    fill(sheet, lambda row: "1" if row["item"] == "1-1" else "")
    assert (import_votes(output).votes, import_votes(output).unrated) == (1, 2)
    sheet.write_text("item;better\n1-1;2\n1-9;1\n")
    with pytest.raises(UserError, match=r"item '1-9' is not in .*another export"):
        import_votes(output)
    sheet.write_text("row,vote\n1,2\n")
    with pytest.raises(UserError, match="needs the columns 'item' and 'better'"):
        import_votes(output)
    with pytest.raises(UserError, match=r"has no key\.json"):
        import_votes(tmp_path)
    with pytest.raises(UserError, match="do not answer the same prompts: 1 ids"):
        read_pairs(ours, answers(tmp_path / "c.jsonl", "bad", range(4)))
