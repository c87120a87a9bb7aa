import math

import pytest
import torch
from evaluation_stubs import random_corpus, tiny_llama

from lit_long.evaluation import loss_by_position, paired_difference, position_nll, take_windows
from lit_long.evaluation.position_loss import bucket_edges, change_beyond, summarise, window_means


@pytest.fixture(scope="module")
def windows():
    return take_windows(random_corpus([600] * 5), 256, 10, seed=0)


def made_up(windows, levels, step):
    """Window w has loss ``levels[w]`` up to position 100 and ``step`` more beyond."""
    nll = torch.tensor(levels)[:, None].repeat(1, windows.length)
    nll[:, 100:] += step
    return nll


def test_edges_double_and_split_at_the_native_length():
    assert bucket_edges(1024, None) == [0, 64, 128, 256, 512, 1024]
    assert bucket_edges(2048, 256) == [0, 64, 128, 256, 320, 512, 1024, 2048]
    assert bucket_edges(1000, 300) == [0, 64, 128, 256, 300, 375, 512, 1000]
    assert bucket_edges(512, 512) == [0, 64, 128, 256, 512]
    assert bucket_edges(50, 8192) == [0, 50]


def test_buckets_by_hand(windows):
    assert windows.documents.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    result = summarise(made_up(windows, [1.0, 1, 2, 2, 3, 3, 4, 4, 5, 5], step=0.5), windows, native_length=100)
    assert [(b.first, b.last) for b in result.buckets] == [(1, 64), (65, 100), (101, 125), (126, 128), (129, 256)]
    assert [b.loss.mean for b in result.buckets] == [3.0, 3.0, 3.5, 3.5, 3.5]
    assert [b.tokens for b in result.buckets] == [10 * 64, 10 * 36, 10 * 25, 10 * 3, 10 * 128]
    # documents with means 1 to 5: standard error sqrt(2.5 / 5), t(4); over ten windows it would be 1.07
    assert result.buckets[0].loss.half_width == pytest.approx(2.7764451 * 0.5**0.5)
    assert result.buckets[0].loss.clusters == 5
    assert result.overall.mean == pytest.approx(3 + 0.5 * 156 / 256)
    assert (result.within_native.loss.mean, result.beyond_native.loss.mean) == (3.0, 3.5)
    # the rise is the same in all documents, so its interval has no width although the level's is huge
    assert (result.reference.first, result.reference.last) == (51, 100)
    assert result.beyond_change.mean == pytest.approx(0.5)
    assert result.beyond_change.half_width == pytest.approx(0, abs=1e-12)


def test_whole_windows_and_what_lies_beyond_by_hand(windows):
    result = summarise(made_up(windows, [1.0, 1, 2, 2, 3, 3, 4, 4, 5, 5], step=0.5), windows, native_length=100)
    means = dict(window_means(result))
    assert list(means) == [64, 100, 125, 128, 256]
    assert means[100].mean == 3.0
    assert means[125].mean == pytest.approx(3 + 0.5 * 25 / 125)
    assert means[256].mean == pytest.approx(result.overall.mean)
    # beyond 150: all 3.5 on average, and so it is from 101 on; the second half of 150 begins at 76
    assert change_beyond(result, 150).mean == pytest.approx(0.5 * 25 / 75)
    assert change_beyond(result, 150).half_width == pytest.approx(0, abs=1e-12)
    assert change_beyond(result, 256) is None


def test_windows_inside_the_native_length_have_no_beyond(windows):
    result = summarise(made_up(windows, [1.0] * 10, step=0.0), windows, native_length=4096)
    assert result.beyond_native is None
    assert result.beyond_change is None
    assert (result.reference.first, result.reference.last) == (129, 256)


def test_curve_never_mixes_both_sides_of_the_native_length(windows):
    curve = summarise(made_up(windows, [2.0] * 10, step=5.0), windows, native_length=100).curve
    losses = dict(zip(curve.positions, curve.loss, strict=True))
    assert 15 <= min(curve.positions) <= 17
    assert max(curve.positions) > 230
    for position, loss in losses.items():
        assert loss == pytest.approx(2.0 if position <= 100 else 7.0), position
    assert all(low <= loss <= high for low, loss, high in zip(curve.low, curve.loss, curve.high, strict=True))


def test_paired_difference_by_hand(windows):
    levels = [1.0, 9, 2, 8, 3, 7, 4, 6, 5, 5]
    first = summarise(made_up(windows, levels, step=1.0), windows, 100)
    shifted = [
        level + shift for level, shift in zip(levels, [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5], strict=True)
    ]
    second = summarise(made_up(windows, shifted, step=-0.4), windows, 100)
    difference = paired_difference(first, second)
    # documents differ by 0.1 to 0.5: mean 0.3, standard error sqrt(0.025 / 5), t(4)
    assert difference.within_native.mean == pytest.approx(0.3, abs=1e-6)
    assert difference.within_native.half_width == pytest.approx(2.7764451 * 0.005**0.5, rel=1e-5)
    assert difference.beyond_native.mean == pytest.approx(0.3 - 1.4, abs=1e-6)
    assert len(difference.buckets) == len(first.buckets)
    assert paired_difference(first, first).overall.mean == 0


def test_pairing_needs_the_same_windows(windows):
    other = take_windows(random_corpus([600] * 5), 256, 10, seed=1)
    nll = made_up(windows, [1.0] * 10, 0.0)
    with pytest.raises(AssertionError, match="same windows"):
        paired_difference(summarise(nll, windows, 100), summarise(nll, other, 100))


def test_loss_by_position_of_a_model(windows):
    model = tiny_llama()
    result = loss_by_position(model, windows, native_length=128)
    nll = position_nll(model, windows.ids).double()
    assert result.overall.mean == pytest.approx(nll.mean().item())
    assert result.beyond_native.loss.mean == pytest.approx(nll[:, 128:].mean().item())
    assert math.isfinite(result.overall.half_width)
