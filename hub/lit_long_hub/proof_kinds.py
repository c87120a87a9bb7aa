"""The two kinds of proof that verification.json can hold (``kind``; without it, the first)."""

LOGITS = "logits"
"""The whole folder was loaded in a fresh process, and its logits compared with the training model's."""

WEIGHTS = "weights"
"""The release was converted while it was published: its weights were compared bit by bit, no logits."""
