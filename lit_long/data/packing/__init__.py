"""Packing: documents to sequences of a fixed length, with their boundaries kept.

- ``concat``: a source is one stream of tokens, cut into sequences (Llama 2 Long, GPT-style); no padding.
- ``best_fit``: no document is cut unless it is longer than a sequence (Ding et al. 2024, "Fewer Truncations Improve
  Language Modeling"); a little padding, which is measured.
- ``single``: one document per sequence, long ones in several; much padding for short documents.
"""

from typing import Literal

Packing = Literal["concat", "best_fit", "single"]
