import pytest
import torch

from lit_long.evaluation.intervals import Estimate, cluster_estimate, student_t_975


def test_student_t_matches_printed_tables():
    table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 10: 2.2281, 30: 2.0423, 120: 1.9799}
    for degrees, value in table.items():
        assert student_t_975(degrees) == pytest.approx(value, abs=5e-5)
    assert student_t_975(5000) == pytest.approx(1.9604, abs=1e-4)


def test_independent_windows_give_the_textbook_interval():
    # mean 3, sample variance 10/4, standard error sqrt(2.5/5), t(4) = 2.7764
    estimate = cluster_estimate(torch.tensor([1.0, 2, 3, 4, 5]), torch.arange(5))
    assert estimate.mean == 3
    assert estimate.half_width == pytest.approx(2.7764451 * 0.5**0.5)
    assert estimate.clusters == 5
    assert estimate.direction == 1


def test_windows_of_one_document_do_not_count_as_independent():
    # Cluster means 1 and 3: standard error 1, t(1) = 12.706; as four windows it would be 3.18 * 0.577.
    estimate = cluster_estimate(torch.tensor([1.0, 1, 3, 3]), torch.tensor([7, 7, 2, 2]))
    assert estimate.mean == 2
    assert estimate.half_width == pytest.approx(12.7062047)
    assert estimate.direction == 0


def test_unequal_clusters_by_hand():
    # mean 2.4; residual sums -2.8 (two windows of 1), 0.6 and 2.2... : (1, 1 | 3 | 3, 4)
    values, clusters = torch.tensor([1.0, 1, 3, 3, 4]), torch.tensor([0, 0, 1, 2, 2])
    variance = ((-2.8) ** 2 + 0.6**2 + 2.2**2) * 3 / 2 / 25
    assert cluster_estimate(values, clusters).half_width == pytest.approx(4.3026527 * variance**0.5)


def test_one_cluster_has_no_interval():
    estimate = cluster_estimate(torch.tensor([1.0, 2.0]), torch.tensor([0, 0]))
    assert estimate == Estimate(1.5, None, 1)
    assert (estimate.low, estimate.high, estimate.direction) == (None, None, 0)
