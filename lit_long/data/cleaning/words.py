"""Words for datatrove's blocks, in any script, without a model or a download.

datatrove takes spaCy's rules for English and one of a dozen other packages for other languages, which is heavy for a
count of words. Here a word is a run of letters and digits, joined by marks such as those in ``can't``, ``file.c`` or
``a@b``; one character of a script that is written without spaces; or a run of other visible characters.
"""

import regex
from datatrove.utils.word_tokenizers import WhitespaceTokenizer

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]"
_JOINS = r"[.'\u2019@&+*#$%~|\\]"
_WORD = regex.compile(rf"[{_UNSPACED}]|{_LETTER}+(?:{_JOINS}{_LETTER}+)*|[^\s\p{{L}}\p{{M}}\p{{N}}_]+", regex.V1)


class UnicodeWords(WhitespaceTokenizer):
    """Splits by Unicode's character classes alone; sentences as datatrove's fallback does."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words and marks of a text, in order."""
        return list(_WORD.findall(text))
