"""The frequency formulas of RoPE and its scalings, as pure float64 functions of numbers.

They are written from the papers, not taken from transformers, so that a live model can be proved against something
that does not share its bugs. Everything is float64 (a head has at most a few hundred frequencies, so it is free);
models hold float32, and the distance between the two is what ``lit_long.rope.verify`` bounds.

Notation: ``d`` rotary dimensions, ``b`` base (``rope_theta``), frequency ``w_j = b^(-2j/d)`` in radians a token for
``j = 0 .. d/2 - 1``, wavelength ``2 pi / w_j`` in tokens.
"""

import math

import torch
from torch import Tensor


def plain_inv_freq(dim: int, base: float) -> Tensor:
    """Frequencies of plain RoPE, ``w_j = base^(-2j/dim)`` (Su et al. 2021, section 3.2.2).

    Args:
        dim: Rotary dimensions of a head.
        base: RoPE base, above 1.

    Returns:
        Frequencies in radians a token, float64, shape [dim/2], from 1 downwards.
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
    return torch.pow(torch.tensor(base, dtype=torch.float64), -exponents)


def linear_inv_freq(dim: int, base: float, factor: float) -> Tensor:
    """Frequencies of position interpolation, ``w_j / factor`` (Chen et al. 2023, section 2.3).

    Dividing the frequencies by ``factor`` is the same as multiplying every position by ``alpha = 1 / factor``.

    Args:
        dim: Rotary dimensions of a head.
        base: RoPE base, above 1.
        factor: How many times longer the context becomes, at least 1.

    Returns:
        Frequencies in radians a token, float64, shape [dim/2].
    """
    return plain_inv_freq(dim, base) / factor


def ntk_base(dim: int, base: float, factor: float) -> float:
    """Base of the static NTK-aware scaling, ``base * factor^(d/(d-2))`` (YaRN, Peng et al. 2023, equation 16).

    The exponent makes the slowest frequency exactly that of position interpolation while the fastest stays 1.

    Args:
        dim: Rotary dimensions of a head, above 2.
        base: RoPE base, above 1.
        factor: How many times longer the context becomes, at least 1.
    """
    return float(base * factor ** (dim / (dim - 2)))


def xpos_decay(dim: int, scale_base: float) -> Tensor:
    """What xPos multiplies frequency j's part of a score with for each token of distance, ``zeta_j^(1/scale_base)``.

    ``zeta_j = (2j + 0.4 d) / (1.4 d)``, from 2/7 for the fastest frequency towards 1 for the slowest (xPos, Sun et al.
    2022; constants of its release, microsoft/torchscale, where the scale base is 512). Queries are multiplied by
    ``zeta_j^(m/scale_base)`` at position m, keys by ``zeta_j^(-n/scale_base)`` at n, so a score knows m - n alone.

    Args:
        dim: Rotary dimensions of a head.
        scale_base: Tokens over which frequency j decays by ``zeta_j``.

    Returns:
        Factors below 1, float64, shape [dim/2].
    """
    even = torch.arange(0, dim, 2, dtype=torch.float64)
    return ((even + 0.4 * dim) / (1.4 * dim)) ** (1 / scale_base)


def yarn_inv_freq(
    dim: int,
    base: float,
    *,
    factor: float,
    original_length: int,
    beta_fast: float,
    beta_slow: float,
    truncate: bool = True,
) -> Tensor:
    """Frequencies of YaRN's "NTK by parts" (Peng et al. 2023, section 3.2, definition 2, as released).

    Frequencies that turn more than ``beta_fast`` times within ``original_length`` stay, those that turn fewer than
    ``beta_slow`` times are divided by ``factor``, and those between are mixed. The paper mixes linearly in the number
    of turns; the released code, and with it every engine, mixes linearly in the index ``j`` between the two bounds
    rounded outwards (``truncate``). We follow the code, since that is what the models were trained with.

    Args:
        dim: Rotary dimensions of a head.
        base: RoPE base, above 1.
        factor: How many times longer the context becomes, at least 1.
        original_length: Context length of the unscaled model, in tokens.
        beta_fast: Turns above which a frequency is left alone.
        beta_slow: Turns below which a frequency is fully interpolated.
        truncate: Whether the two bounds are rounded to whole indices (gpt-oss does not).

    Returns:
        Frequencies in radians a token, float64, shape [dim/2].
    """
    plain = plain_inv_freq(dim, base)

    def index_of(turns: float) -> float:
        return (dim * math.log(original_length / (turns * 2 * math.pi))) / (2 * math.log(base))

    low, high = index_of(beta_fast), index_of(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # the released code's guard against a division by zero; part of the formula by now
    index = torch.arange(plain.numel(), dtype=torch.float64)
    interpolated = ((index - low) / (high - low)).clamp(0, 1)
    return plain / factor * interpolated + plain * (1 - interpolated)


def yarn_attention_factor(factor: float, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """YaRN's scale of cos and sin, ``0.1 ln(factor) + 1`` (Peng et al. 2023, section 3.4, equation 22).

    It multiplies cos and sin, hence queries and keys, hence every attention logit by its square (the paper's 1/t).

    Args:
        factor: How many times longer the context becomes; 1 or less gives 1.
        mscale: DeepSeek's weight of the logarithm in the numerator.
        mscale_all_dim: DeepSeek's weight in the denominator; counts only together with ``mscale``.
    """

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    return scale(mscale) / scale(mscale_all_dim) if mscale and mscale_all_dim else scale(1.0)


def llama3_inv_freq(
    dim: int,
    base: float,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_length: int,
) -> Tensor:
    """Frequencies of Llama 3.1 (Llama 3 herd of models, section 3.4.2, and Meta's released ``apply_scaling``).

    With ``r_j = original_length / wavelength_j`` turns: ``r > high_freq_factor`` stays, ``r < low_freq_factor`` is
    divided by ``factor``, and between them the two are mixed linearly in ``r``.

    Args:
        dim: Rotary dimensions of a head.
        base: RoPE base, above 1.
        factor: How many times longer the context becomes, at least 1.
        low_freq_factor: Turns below which a frequency is fully interpolated.
        high_freq_factor: Turns above which a frequency is left alone; above ``low_freq_factor``.
        original_length: Context length of the unscaled model, in tokens.

    Returns:
        Frequencies in radians a token, float64, shape [dim/2].
    """
    plain = plain_inv_freq(dim, base)
    turns = original_length * plain / (2 * math.pi)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return plain / factor * (1 - kept) + plain * kept
