"""The power law: the paper's four laws from their own points, planted ones from noise, nonsense refused."""

import numpy as np
import pytest

from lit_long.errors import UserError
from lit_long.evaluation.power_law import PowerLaw, fit_power_law
from lit_long.evaluation.power_law_points import position_points, window_points

PAPER = {"7b": (25.4, 0.45, 1.56), "13b": (19.5, 0.48, 1.45), "34b": (17.7, 0.50, 1.41), "70b": (17.9, 0.51, 1.35)}
LENGTH = 8192


@pytest.mark.parametrize("size", PAPER)
def test_noise_free_points_of_the_paper_return_its_parameters(size):
    law = PowerLaw(*PAPER[size])
    contexts = np.geomspace(64, 32_768, 19)
    fit = fit_power_law(contexts, law(contexts))
    assert (fit.law.alpha, fit.law.beta, fit.law.gamma) == pytest.approx(PAPER[size], rel=1e-5)
    assert fit.r2 == pytest.approx(1, abs=1e-9)
    assert fit.best == "power"
    # doubling the context leaves 2^-beta of the reducible part (paper, section 4.1)
    share = 2**-law.beta
    assert fit.law(8192) == pytest.approx(share * fit.law(4096) + (1 - share) * law.gamma, rel=1e-6)


def test_buckets_do_not_bend_the_law():
    law = PowerLaw(*PAPER["7b"])
    ranges, means = position_points(law(np.arange(1, LENGTH + 1))[None])
    assert len(ranges) == 14  # half octaves from 64 to 8,192
    fit = fit_power_law(ranges, means)
    assert (fit.law.alpha, fit.law.beta, fit.law.gamma) == pytest.approx(PAPER["7b"], rel=1e-4)


def test_window_means_are_what_they_say():
    nll = np.random.default_rng(0).gamma(2.0, size=(3, 1000))
    contexts, means = window_points(nll)
    for column, context in enumerate(contexts.astype(int)):
        np.testing.assert_allclose(means[:, column], nll[:, :context].mean(axis=1))


def _noisy(documents, seed):
    """Losses [documents, LENGTH] around the paper's 7B law: levels differ by 0.25 nats, tokens by 2.3."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 0.25, (documents, 1))
    return PowerLaw(*PAPER["7b"])(np.arange(1, LENGTH + 1)) + level + rng.normal(0, 2.3, (documents, LENGTH))


def test_a_planted_law_lies_in_its_intervals_and_few_documents_are_called_too_few():
    many = fit_power_law(*position_points(_noisy(200, 1)))
    assert many.intervals is not None
    for name, value in zip(("alpha", "beta", "gamma"), PAPER["7b"], strict=True):
        low, high = many.intervals[name]
        assert low < value < high
    assert many.determined
    few = fit_power_law(*position_points(_noisy(6, 2)), resamples=300)
    assert few.intervals is not None
    width, narrow = (fit.intervals["beta"][1] - fit.intervals["beta"][0] for fit in (few, many))
    assert width > 2 * narrow
    assert not few.determined
    assert fit_power_law(*position_points(_noisy(4, 3))).intervals is None


def test_windows_of_one_document_do_not_count_as_evidence_of_their_own():
    ranges, means = position_points(_noisy(20, 4))
    alone = fit_power_law(ranges, means, resamples=300)
    copied = fit_power_law(ranges, np.repeat(means, 8, axis=0), clusters=np.repeat(np.arange(20), 8), resamples=300)
    assert copied.clusters == alone.clusters == 20
    assert copied.intervals["beta"] == pytest.approx(alone.intervals["beta"], rel=1e-6)


def test_a_straight_line_in_log_c_is_recognised():
    contexts = np.geomspace(64, 32_768, 19)
    noise = np.random.default_rng(0).normal(0, 0.002, 19)
    assert fit_power_law(contexts, 4 - 0.1 * np.log(contexts) + noise).best == "log"


@pytest.mark.parametrize(
    ("contexts", "losses", "says"),
    [
        ([64, 128, 256], [3, 2, 1], "at least 4 points, found 3"),
        ([64, 128, 256, 256], [4, 3, 2, 1], "positive and rising"),
        ([64, 128, 256, 512], [4, 3, float("nan"), 1], "window 0 at point 2 is nan"),
        ([64, 128, 256, 512], [1, 2, 3, 4], "do not fall with context"),
        ([64, 128, 256, 512], [1, 2, 3], "do not fit"),
    ],
)
def test_what_cannot_be_fitted_is_refused(contexts, losses, says):
    with pytest.raises(UserError, match=says):
        fit_power_law(contexts, losses)


def test_too_short_windows_are_refused():
    with pytest.raises(UserError, match="less than two octaves"):
        position_points(np.ones((2, 200)))
