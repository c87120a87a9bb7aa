"""Cross-entropy straight from hidden states, so that S x V logits never exist."""

from lit_long.loss.linear import LossSums, OutputTransform, linear_cross_entropy
from lit_long.loss.targets import IGNORE

__all__ = ["IGNORE", "LossSums", "OutputTransform", "linear_cross_entropy"]
