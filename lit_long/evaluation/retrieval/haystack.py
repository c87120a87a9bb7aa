"""Real text to hide things in, as token ids: stretches of documents that begin and can be cut at sentence ends."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.errors import UserError

Int64 = npt.NDArray[np.int64]
_ENDS = (".", "!", "?", '."', '?"', '!"', ".\n", "\n\n")


class Haystack:
    """Documents as token ids.

    Args:
        documents: token ids of each document, integer [tokens].
        tokenizer: a Hugging Face tokenizer, to know which tokens end a sentence.
        name: for reports.
    """

    def __init__(self, documents: Sequence[npt.ArrayLike], tokenizer: Any, *, name: str) -> None:
        self.documents = [np.asarray(document, dtype=np.int64) for document in documents]
        self.tokenizer, self.name = tokenizer, name

    @classmethod
    def of_corpus(cls, corpus: Any, tokenizer: Any) -> "Haystack":
        """The documents of a token corpus, or of anything with ``documents``, ``document(i)`` and ``name``."""
        return cls([corpus.document(i) for i in range(corpus.documents)], tokenizer, name=corpus.name)

    @classmethod
    def of_texts(cls, texts: Sequence[str], tokenizer: Any, *, name: str) -> "Haystack":
        """Texts, tokenised without special tokens."""
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return cls(ids, tokenizer, name=name)

    @cached_property
    def _ends(self) -> npt.NDArray[np.bool_]:
        """bool [vocabulary]: tokens behind which a sentence may begin."""
        size = len(self.tokenizer)
        texts = self.tokenizer.batch_decode([[i] for i in range(size)])
        return np.array([text.rstrip(" ").endswith(_ENDS) for text in texts], dtype=bool)

    def ids(self, text: str) -> Int64:
        """Token ids of a text, without special tokens."""
        return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def ids_behind(self, front: str, text: str) -> Int64:
        """Token ids of a text as it is encoded behind another: SentencePiece adds a space to what is encoded alone."""
        both, before = self.ids(front + text), self.ids(front)
        return both[len(before) :] if np.array_equal(both[: len(before)], before) else self.ids(text)

    def stretch(self, length: int, rng: np.random.Generator) -> Int64:
        """``length`` tokens of one random document that begin behind a sentence's end, int64 [length].

        Raises:
            UserError: no document is long enough.
        """
        fitting = [document for document in self.documents if len(document) >= length]
        if not fitting:
            longest = max((len(document) for document in self.documents), default=0)
            raise UserError(
                f"no document of {self.name!r} has {length:,} tokens to hide a needle in (the longest has "
                f"{longest:,}); take longer documents, or a shorter length"
            )
        document = fitting[int(rng.integers(len(fitting)))]
        start = int(rng.integers(len(document) - length + 1))
        begins = self.sentence_starts(document[: len(document) - length + 1])
        later = begins[begins >= start]
        start = int(later[0]) if len(later) else int(begins[-1])
        return document[start : start + length]

    def sentence_starts(self, ids: Int64) -> Int64:
        """Places in ``ids`` where a sentence may begin; 0 among them."""
        known = ids[:-1] if len(ids) else ids
        after = np.flatnonzero(self._ends[np.minimum(known, len(self._ends) - 1)] & (known < len(self._ends))) + 1
        return np.concatenate([[0], after]).astype(np.int64)

    def cut_near(self, ids: Int64, place: int) -> int:
        """The sentence start in ``ids`` that is nearest to ``place``."""
        starts = np.append(self.sentence_starts(ids), len(ids))
        return int(starts[np.abs(starts - place).argmin()])
