"""Token budgets, length up-sampling, and the paper's four arms."""

import numpy as np
import pytest

from lit_long.data import LongUpsample, Mixture, MixtureSource
from lit_long.data.mixture import build_parts
from lit_long.errors import UserError
from tests.data.fakes import FakeCorpus

CORPORA = {
    "books": FakeCorpus([1000] * 9 + [50] * 20, fingerprint="b"),  # 90 % of the tokens in documents over 100
    "web": FakeCorpus([10] * 700 + [500] * 6, fingerprint="w"),  # 30 %
    "chat": FakeCorpus([40] * 50, fingerprint="c"),  # none
    "two": FakeCorpus([5, 6, 7, 800], [0, 1, 0, 1], fingerprint="t"),
}


def parts_of(names=("books", "web", "chat"), weights=None, per_source=None, **options):
    sources = {name: MixtureSource(corpus=name, **(per_source or {}).get(name, {})) for name in names}
    return build_parts(Mixture(sources=sources, weights=weights, **options), lambda corpus, split: CORPORA[corpus])


def shares(parts):
    return {part.label: round(part.share, 9) for part in parts}


def test_weights_are_ratios_of_tokens_and_sizes_without_them():
    assert shares(parts_of(weights={"books": 3, "web": 6, "chat": 1})) == {"books": 0.3, "web": 0.6, "chat": 0.1}
    assert shares(parts_of(weights={"books": 3, "web": 0, "chat": 1})) == {"books": 0.75, "chat": 0.25}
    sizes = {"books": 10_000, "web": 10_000, "chat": 2_000}
    assert shares(parts_of()) == {name: round(size / 22_000, 9) for name, size in sizes.items()}


def test_the_four_arms_of_the_paper():
    weights = {"books": 0.2, "web": 0.7, "chat": 0.1}

    def long_share(parts):
        return sum(
            p.share * np.diff(p.documents.starts)[np.diff(p.documents.starts) > 100].sum() / p.documents.tokens
            for p in parts
        )

    natural = 0.2 * 0.9 + 0.7 * 0.3
    assert long_share(parts_of(weights=weights)) == pytest.approx(natural)
    assert long_share(parts_of(weights=weights, drop_longer_than=100)) == 0
    for share in (0.1, 0.5, 0.8):
        parts = parts_of(weights=weights, long_upsample=LongUpsample(over=100, share=share))
        assert long_share(parts) == pytest.approx(share)
        for name, weight in weights.items():  # the sources keep their budgets
            assert sum(p.share for p in parts if p.name == name) == pytest.approx(weight)
        # one and the same factor in each source: the odds of long over short grow alike
        odds = {p.label: p.share for p in parts}
        grown = [
            odds[f"{name} (long)"] / odds[f"{name} (short)"] / (part / (1 - part))
            for name, part in (("books", 0.9), ("web", 0.3))
        ]
        assert grown[0] == pytest.approx(grown[1])


def test_a_factor_and_a_source_of_its_own():
    parts = shares(parts_of(weights={"books": 1, "web": 1, "chat": 1}, long_upsample=LongUpsample(over=100, factor=3)))
    assert parts["web (long)"] == pytest.approx(1 / 3 * 0.9 / (0.9 + 0.7), rel=1e-6)
    parts = shares(
        parts_of(
            weights={"books": 1, "web": 1, "chat": 1},
            per_source={"web": {"long_upsample": LongUpsample(over=100, share=0.75)}},
        )
    )
    assert parts["web (long)"] == pytest.approx(0.25)
    assert parts["books"] == pytest.approx(1 / 3)


def test_filters_and_sources_within_a_corpus():
    parts = parts_of(("two",), per_source={"two": {"source": "s1"}})
    assert parts[0].documents.corpus_documents(np.arange(2)).tolist() == [1, 3]
    (part,) = parts_of(("two",), min_tokens=6, drop_longer_than=10)
    assert np.diff(part.documents.starts).tolist() == [6, 7]
    assert part.dropped == (2, 805)
    (part,) = parts_of(("two",), min_tokens=6, per_source={"two": {"min_tokens": 0}})
    assert len(part.documents) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ()}, "mixture.sources is empty"),
        ({"weights": {"books": 1.0}}, "mixture.weights: source 'web' has no weight; name each of"),
        ({"weights": {"books": 1, "web": 1, "chat": 1, "w": 1}}, "mixture.weights: there is no source 'w'"),
        ({"weights": {"books": 1.0, "web": -1.0, "chat": 1.0}}, "source 'web' has weight -1.0; it must be 0 or more"),
        ({"weights": {"books": 0, "web": 0, "chat": 0}}, "weights are all 0"),
        ({"min_tokens": 600}, "source 'web' has no document of 600 to any number of tokens left .706 in all."),
        ({"drop_longer_than": 20}, "source 'books' has no document of 0 to 20 tokens"),
        ({"names": ("two",), "per_source": {"two": {"source": "s7"}}}, r"no source 's7'; it has \['s0', 's1'\]"),
        (
            {"weights": {"books": 1, "web": 1, "chat": 2}, "long_upsample": LongUpsample(over=100, share=0.6)},
            "long_upsample.share 0.6 over 100 tokens cannot be reached: sources with such documents have 50.0%",
        ),
        (
            {"names": ("chat",), "per_source": {"chat": {"long_upsample": LongUpsample(over=100, share=0.6)}}},
            "source 'chat': long_upsample.share 0.6 over 100 tokens cannot be reached",
        ),
    ],
)
def test_mixtures_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        parts_of(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give share or factor, found share=None and factor=None"),
        ({"share": 0.5, "factor": 2}, "give share or factor"),
        ({"share": 1.0}, "must be above 0 and below 1"),
        ({"factor": 0}, "must be above 0"),
    ],
)
def test_upsampling_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        LongUpsample(over=10, **options)
