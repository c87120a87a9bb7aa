"""The mixture: how many tokens each source gives, and how its long documents are weighted.

Weights are shares of **tokens**, not of documents or sequences. Long documents can be drawn more often inside each
source, so that the shares of the sources stay as asked (Fu et al. 2024, "Data Engineering for Scaling Language Models
to 128K Context": up-sample by length within each domain; changing the domains costs short-context quality).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from lit_long.data.corpus import TokenCorpus
from lit_long.data.documents import CorpusIndex, DocumentSet, Selection
from lit_long.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LongUpsample:
    """Draw documents over a length more often; give ``share`` or ``factor``.

    Args:
        over: documents with more tokens than this are long.
        share: share of the tokens that long documents shall have (0.5 = half); set for the whole mixture, it is the
            share in the whole, reached by one and the same factor in all sources.
        factor: a token of a long document is drawn this many times as often as one of a short document.
    """

    over: int
    share: float | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.factor is None):
            raise UserError(f"long_upsample: give share or factor, found share={self.share} and factor={self.factor}")
        if self.share is not None and not 0 < self.share < 1:
            raise UserError(f"long_upsample.share is {self.share}; it must be above 0 and below 1")
        if self.factor is not None and self.factor <= 0:
            raise UserError(f"long_upsample.factor is {self.factor}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class MixtureSource:
    """One source of the mixture.

    Args:
        corpus: corpus folder of ``lit-long prepare``.
        split: split of the corpus to train on.
        source: only the documents of this source of the corpus; default: all.
        min_tokens: leave out documents with fewer tokens; default: the mixture's.
        drop_longer_than: leave out documents with more tokens; default: the mixture's.
        long_upsample: draw long documents more often; default: the mixture's.
    """

    corpus: str
    split: str = "train"
    source: str | None = None
    min_tokens: int | None = None
    drop_longer_than: int | None = None
    long_upsample: LongUpsample | None = None


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Sources, and what holds for all of them.

    Args:
        sources: name -> source.
        weights: name -> token budget, in any unit (0.3, 30 or 12e9): only ratios count; names every source, and 0
            leaves one out. Default: each source's size in tokens.
        min_tokens: leave out documents with fewer tokens than this.
        drop_longer_than: leave out documents with more tokens than this.
        long_upsample: draw long documents more often.
        max_epochs: passes over a source (its long documents are counted apart) that are fine; up to 4 are about as good
            as new text (Muennighoff et al. 2023, "Scaling Data-Constrained Language Models").
        on_repeat: what to do when a source would be seen more often: say so, or refuse.
    """

    sources: dict[str, MixtureSource]
    weights: dict[str, float] | None = None
    min_tokens: int = 0
    drop_longer_than: int | None = None
    long_upsample: LongUpsample | None = None
    max_epochs: float = 4.0
    on_repeat: Literal["warn", "error"] = "warn"


@dataclass(frozen=True)
class Part:
    """Documents that are drawn alike: a source, or its short or its long documents.

    ``share``: of all tokens. ``name`` is the source's, ``bucket`` "all", "short" or "long".
    """

    name: str
    bucket: str
    documents: DocumentSet
    share: float
    dropped: tuple[int, int] = field(default=(0, 0))
    single: bool = False
    """One document per row, whatever the packing of the other parts."""

    @property
    def label(self) -> str:
        """Name for people."""
        return self.name if self.bucket == "all" else f"{self.name} ({self.bucket})"


def build_parts(mixture: Mixture, open_corpus: Callable[[str, str], CorpusIndex] = TokenCorpus) -> list[Part]:
    """Open the corpora of a mixture and divide its tokens.

    Args:
        mixture: what to build.
        open_corpus: (folder, split) -> corpus.

    Raises:
        UserError: no source, missing corpora, weights given for some sources only, filters that leave nothing, or a
            share of long documents that cannot be reached.
    """
    if not mixture.sources:
        raise UserError("mixture.sources is empty; name at least one source with its corpus")
    weights = mixture_weights(mixture)
    opened: dict[tuple[str, str], CorpusIndex] = {}
    sources: list[_Split] = []
    for name, source in mixture.sources.items():
        if weights.get(name) == 0:
            continue
        key = (source.corpus, source.split)
        if key not in opened:
            opened[key] = open_corpus(*key)
        sources.append(_split(name, source, weights.get(name), mixture, opened[key]))
    total = sum(split.weight for split in sources)
    sources = [replace(split, weight=split.weight / total) for split in sources]
    common = _common_factor(sources, mixture.long_upsample)
    parts: list[Part] = []
    for split in sources:
        parts += split.parts(common)
    return parts


@dataclass(frozen=True)
class _Split:
    """A source with its documents, divided where long ones are up-sampled."""

    name: str
    weight: float
    short: DocumentSet
    long: DocumentSet | None  # None: not divided
    own: LongUpsample | None  # the source's own rule; None: the mixture's
    dropped: tuple[int, int]

    @property
    def long_share(self) -> float:
        """Natural share of tokens in long documents."""
        long = self.long.tokens if self.long is not None else 0
        return long / (long + self.short.tokens)

    def parts(self, common: float) -> list[Part]:
        if self.long is None:
            return [Part(self.name, "all", self.short, self.weight, self.dropped)]
        share = self.long_share
        own = self.own
        factor = common if own is None else _factor_for([(1.0, share)], own, f"source {self.name!r}")
        long = factor * share / (factor * share + 1 - share)
        found = [
            Part(self.name, "short", self.short, self.weight * (1 - long), self.dropped),
            Part(self.name, "long", self.long, self.weight * long),
        ]
        return [part for part in found if len(part.documents)]


def mixture_weights(mixture: Mixture) -> dict[str, float]:
    """The weights, checked; empty where sources count by their size."""
    weights = mixture.weights
    if weights is None:
        return {}
    without, unknown = (
        [n for n in mixture.sources if n not in weights],
        [n for n in weights if n not in mixture.sources],
    )
    if without or unknown:
        raise UserError(
            "mixture.weights: "
            + (f"source {without[0]!r} has no weight" if without else f"there is no source {unknown[0]!r}")
            + f"; name each of {list(mixture.sources)} (a token budget in any unit, 0 leaves a source out), or leave "
            f"weights out, and each gives all it has"
        )
    if bad := [name for name, weight in weights.items() if not 0 <= weight < float("inf")]:
        raise UserError(f"mixture.weights: source {bad[0]!r} has weight {weights[bad[0]]}; it must be 0 or more")
    if not any(weights.values()):
        raise UserError("mixture.weights are all 0; give at least one source a weight above 0")
    return dict(weights)


def _split(name: str, source: MixtureSource, weight: float | None, mixture: Mixture, corpus: CorpusIndex) -> _Split:
    if source.source is not None and source.source not in corpus.source_names:
        raise UserError(
            f"mixture: source {name!r}: the corpus {source.corpus} has no source {source.source!r}; "
            f"it has {list(corpus.source_names)}"
        )
    least = mixture.min_tokens if source.min_tokens is None else source.min_tokens
    most = mixture.drop_longer_than if source.drop_longer_than is None else source.drop_longer_than
    above = max(0, least - 1)
    rule = source.long_upsample or mixture.long_upsample
    everything = DocumentSet(corpus, Selection(source.source))
    kept = DocumentSet(corpus, Selection(source.source, above, most))
    if not len(kept):
        raise UserError(
            f"mixture: source {name!r} has no document of {least} to {most or 'any number of'} tokens left "
            f"({len(everything):,} in all); mend min_tokens or drop_longer_than, or leave the source out"
        )
    dropped = (len(everything) - len(kept), everything.tokens - kept.tokens)
    weight = float(kept.tokens if weight is None else weight)
    if rule is None or (most is not None and most <= rule.over):
        return _Split(name, weight, kept, None, None, dropped)
    short = DocumentSet(corpus, Selection(source.source, above, rule.over))
    long = DocumentSet(corpus, Selection(source.source, max(above, rule.over), most))
    return _Split(name, weight, short, long, source.long_upsample, dropped)


def _common_factor(sources: list[_Split], rule: LongUpsample | None) -> float:
    """The factor by which long documents are drawn more often in the sources that follow the mixture's rule."""
    following = [(s.weight, s.long_share) for s in sources if s.own is None]
    if rule is None or not following:
        return 1.0
    return _factor_for(following, rule, "mixture")


def _factor_for(sources: list[tuple[float, float]], rule: LongUpsample, where: str) -> float:
    """The factor that gives ``rule.share`` over (weight, natural long share) of the sources; bisection."""
    if rule.factor is not None:
        return rule.factor
    assert rule.share is not None
    weight = sum(w for w, _ in sources)

    def share(factor: float) -> float:
        return sum(w * factor * p / (factor * p + 1 - p) for w, p in sources) / weight

    low, high = 1e-9, 1e9
    if not share(low) < rule.share < share(high):
        most = sum(w for w, p in sources if p > 0) / weight
        raise UserError(
            f"{where}: long_upsample.share {rule.share} over {rule.over} tokens cannot be reached: sources with such "
            f"documents have {most:.1%} of the weight, and sources with none but such {share(low):.1%}; "
            f"take another share or threshold, or other weights"
        )
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if share(middle) < rule.share else (low, middle)
    return high
