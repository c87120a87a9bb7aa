"""What the parts of the loss agree on."""

from dataclasses import dataclass

IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class OutputTransform:
    """What a model does to its logits behind the output layer: scaled, then capped.

    Attributes:
        scale: factor on the logits (Cohere's ``logit_scale``, one over Granite's ``logits_scaling``).
        softcap: c in ``c * tanh(logits / c)`` (Gemma 2's ``final_logit_softcapping``); None: not capped.
    """

    scale: float = 1.0
    softcap: float | None = None
