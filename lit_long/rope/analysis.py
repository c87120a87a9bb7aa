"""What a set of frequencies does to attention, without training: the decay and granularity of Llama 2 Long.

Pure functions of ``inv_freq`` (radians a token, shape [d/2], as every method's ``inv_freq`` returns it).
"""

import math

import torch
from torch import Tensor


def all_ones_score(inv_freq: Tensor, distance: Tensor | float, decay: Tensor | None = None) -> Tensor:
    """Attention logit between an all-ones query and an all-ones key, ``s(D) = (1/sqrt d) sum_j 2 r_j^D cos(w_j D)``.

    The decay curve of Llama 2 Long, figure 4 (the normalisation is a reconstruction: it gives ``sqrt d`` at D = 0).

    Args:
        inv_freq: Frequencies in radians a token, shape [d/2].
        distance: Distance between the two tokens, at least 0, any shape.
        decay: ``r_j``, shape [d/2], as a method's ``decay`` returns it; default: 1.

    Returns:
        Scores, float64, of ``distance``'s shape.
    """
    frequencies = inv_freq.double()
    distances = torch.as_tensor(distance, dtype=torch.float64, device=frequencies.device)[..., None]
    parts = (distances * frequencies).cos()
    if decay is not None:
        parts = parts * decay.to(frequencies) ** distances
    return 2 * parts.sum(-1) / math.sqrt(2 * frequencies.numel())


def granularity(inv_freq: Tensor) -> float:
    """Sine distance of two neighbouring positions of an all-ones vector, ``(2/d) sum_j sin(w_j)``.

    Larger is better: positions are easier to tell apart (Llama 2 Long, appendix B, theorem 1; the factor 2/d, missing
    there as transcribed, makes the sum converge to the theorem's limit).

    Args:
        inv_freq: Frequencies in radians a token, shape [d/2].
    """
    return float(inv_freq.double().sin().mean())


def granularity_asymptote(base: float, alpha: float = 1.0) -> float:
    """Limit of :func:`granularity` for many dimensions, ``alpha / ln(base)`` (Llama 2 Long, appendix B, theorem 1).

    Args:
        base: RoPE base (for ABF the raised one).
        alpha: Interpolation, 1 / factor; 1 for methods that do not interpolate.
    """
    return alpha / math.log(base)
