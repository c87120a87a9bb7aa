"""Asked versus achieved, by brute force."""

import json

import numpy as np
import pytest

from lit_long.data.mixture_plot import plot_mixture
from lit_long.data.mixture_report import TokenCounts, bucket_names, bucket_of, mixture_report, to_markdown
from tests.data.fakes import plan_of, spans_of

RANDOM = np.random.default_rng(4)
CORPORA = [RANDOM.integers(10, 5000, 300), [2_000_000, 900]]


def test_buckets_are_powers_of_two():
    names = bucket_names()
    for length, name in [
        (1, "up to 1K"), (1024, "up to 1K"), (1025, "1K-2K"), (2048, "1K-2K"), (2049, "2K-4K"),
        (32_768, "16K-32K"), (1 << 20, "512K-1024K"), ((1 << 20) + 1, "over 1024K"), (1 << 30, "over 1024K"),
    ]:  # fmt: skip
        assert names[int(bucket_of(np.array([length]))[0])] == name


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_counts_are_those_of_the_rows(packing):
    plan = plan_of(CORPORA, [0.75, 0.25], length=4096, sequences=8, packing=packing)
    counts = TokenCounts(plan, native_length=4096)
    expected = np.zeros_like(counts.tokens)
    beyond = total = 0
    for step in range(20):
        counts.add(plan.step(step))
        for number, document, begin, end in spans_of(plan.step(step)):
            length = int(CORPORA[number][document])
            expected[number, int(bucket_of(np.array([length]))[0])] += end - begin
            beyond += (end - begin) * (length > 4096)
            total += end - begin
    assert np.array_equal(counts.tokens, expected)
    report = mixture_report(plan, 100, counts)
    assert report.beyond_native_achieved == pytest.approx(beyond / total)
    first, second = report.sources
    assert (first.achieved, second.achieved) == tuple(expected.sum(axis=1))
    assert first.achieved_share == pytest.approx(0.75, abs=0.01)
    assert first.epochs_so_far == pytest.approx(first.achieved / CORPORA[0].sum())
    assert first.epochs == pytest.approx(5 * first.epochs_so_far, rel=0.03)
    assert sum(line.available for line in report.lines) == sum(map(sum, CORPORA))
    assert sum(line.achieved for line in report.lines) == total
    asked = sum(line.asked for line in report.lines)
    assert asked == pytest.approx(sum(plan.planned_tokens(100)))
    long = sum(CORPORA[0][CORPORA[0] > 4096]) / sum(CORPORA[0])
    assert report.beyond_native_asked == pytest.approx(0.75 * long + 0.25 * 2_000_000 / 2_000_900)
    restored = TokenCounts(plan, 4096)
    restored.load(json.loads(json.dumps(counts.state())))
    assert mixture_report(plan, 100, restored) == report


def test_the_report_says_it_in_words_and_in_a_picture(tmp_path):
    plan = plan_of(CORPORA, [0.75, 0.25], length=4096, sequences=8)
    before = to_markdown(mixture_report(plan, 100))
    assert "0 of 100 steps done" in before
    assert "achieved 0" not in before
    counts = TokenCounts(plan, 4096)
    counts.add(plan.step(0))
    report = mixture_report(plan, 100, counts)
    text = to_markdown(report)
    assert "native context of 4,096" in text
    assert "| s1 | over 1024K | 2,000,000 |" in text
    plot_mixture(report, tmp_path / "mixture.png")
    assert (tmp_path / "mixture.png").stat().st_size > 10_000
