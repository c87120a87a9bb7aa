"""Text to token ids with one thread: the tokenizer's own Rust code, without what only users of offsets need."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.tokenizer import adds_bos


@dataclass(frozen=True)
class EncoderSpec:
    """A fast tokenizer as plain values: the content of its tokenizer.json, and the ids put around each document."""

    json: str
    bos: int | None
    eos: int


def encoder_spec(tokenizer: Any) -> EncoderSpec:
    """The spec of a Hugging Face fast tokenizer (BOS only if the tokenizer itself adds it)."""
    bos = tokenizer.bos_token_id if adds_bos(tokenizer) else None
    return EncoderSpec(tokenizer.backend_tokenizer.to_str(), bos, tokenizer.eos_token_id)


class Encoder:
    """Encodes documents as a corpus keeps them: BOS if the tokenizer adds one, the text's ids, EOS."""

    def __init__(self, spec: EncoderSpec) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(spec.json)
        self._tokenizer.no_truncation()  # a tokenizer.json may carry both from whoever used it last
        self._tokenizer.no_padding()
        self._before = [] if spec.bos is None else [spec.bos]
        self._eos = spec.eos

    def encode(self, texts: list[str]) -> list[npt.NDArray[np.int32]]:
        """Token ids of each text, int32 [length]."""
        # encode_batch_fast gives the ids of encode_batch without character offsets, which nobody needs here
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [self._with_ends(encoding.ids) for encoding in encodings]

    def _with_ends(self, ids: list[int]) -> npt.NDArray[np.int32]:
        # joining the lists first would take as long as the conversion
        first = len(self._before)
        tokens = np.empty(first + len(ids) + 1, dtype=np.int32)
        tokens[:first], tokens[first:-1], tokens[-1] = self._before, ids, self._eos
        return tokens
