import numpy as np
import pytest
import torch
from evaluation_stubs import FakeCorpus

from lit_long.errors import UserError
from lit_long.evaluation import take_windows

SIZES = [50, 1000, 101, 100, 3000, 640]


def test_windows_lie_inside_one_document_without_overlap():
    corpus = FakeCorpus(SIZES)
    windows = take_windows(corpus, 100, 25, seed=3)
    assert windows.ids.shape == (25, 101)
    assert windows.ids.dtype == torch.int64
    taken: dict[int, list[int]] = {}
    for ids, document, offset in zip(windows.ids, windows.documents.tolist(), windows.offsets.tolist(), strict=True):
        expected = corpus.document(document)[offset : offset + 101]
        assert len(expected) == 101  # in bounds
        assert ids.tolist() == expected.tolist()
        taken.setdefault(document, []).append(offset)
    for offsets in taken.values():
        assert all(b - a >= 101 for a, b in zip(sorted(offsets), sorted(offsets)[1:], strict=False))
    assert windows.document_ids == tuple(f"doc-{d}" for d in windows.documents.tolist())


def test_short_documents_are_skipped_and_counted():
    windows = take_windows(FakeCorpus(SIZES), 100, 4, seed=0)
    assert windows.short_documents == 2  # 50 and 100 tokens: a window of 100 predictions needs 101
    assert windows.long_documents == 4
    assert not {0, 3} & set(windows.documents.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_documents_get_their_share(seed):
    # 40, 20 and 4 windows fit; 16 of 64 is a quarter of each.
    windows = take_windows(FakeCorpus([4040, 2020, 404]), 100, 16, seed=seed)
    assert torch.bincount(windows.documents).tolist() == [10, 5, 1]


def test_more_windows_than_fit_gives_all_that_fit():
    windows = take_windows(FakeCorpus(SIZES), 100, 1000, seed=0)
    assert windows.ids.shape[0] == sum(size // 101 for size in SIZES)
    assert windows.asked == 1000


def test_same_seed_same_windows_and_other_seed_others():
    first, same, other = (take_windows(FakeCorpus(SIZES), 100, 8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.ids, same.ids)
    assert first.fingerprint == same.fingerprint
    assert first.fingerprint != other.fingerprint


def test_offsets_are_spread_over_the_document():
    offsets = np.array([take_windows(FakeCorpus([10_101]), 100, 1, seed=s).offsets[0].item() for s in range(200)])
    assert abs(offsets.mean() - 5000) < 5 * 10_000 / 12**0.5 / 200**0.5
    assert offsets.min() < 1000
    assert offsets.max() > 9000


def test_clusters_are_documents_from_five_on():
    five, four = take_windows(FakeCorpus([500] * 5), 100, 20, 0), take_windows(FakeCorpus([500] * 4), 100, 16, 0)
    assert five.clustered_by == "document"
    assert five.clusters.tolist() == sorted(list(range(5)) * 4)
    assert four.clustered_by == "window"
    assert four.clusters.tolist() == list(range(16))


def test_first_token_replaces_only_the_first():
    plain = take_windows(FakeCorpus([900]), 100, 3, 0)
    started = take_windows(FakeCorpus([900]), 100, 3, 0, first_token=7)
    assert started.ids[:, 0].tolist() == [7, 7, 7]
    assert torch.equal(started.ids[:, 1:], plain.ids[:, 1:])


def test_no_document_long_enough_names_the_longest():
    with pytest.raises(UserError, match=r"longest has 3,000 tokens"):
        take_windows(FakeCorpus(SIZES), 3000, 4, seed=0)
    with pytest.raises(UserError, match="at least 1"):
        take_windows(FakeCorpus(SIZES), 100, 0, seed=0)
