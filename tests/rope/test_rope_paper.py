"""The numbers of Llama 2 Long, by hand and from its tables, against lit_long.rope."""

import math

import pytest
import torch

from lit_long.rope import ABF, NTK, Linear, Llama3, NoScaling, RopeGeometry, YaRN
from lit_long.rope.analysis import all_ones_score, granularity, granularity_asymptote

LLAMA2 = RopeGeometry(dim=128, base=10_000.0, native_length=4096)
ROPE = NoScaling().inv_freq(LLAMA2, 32768)
PI_8 = Linear().inv_freq(LLAMA2, 32768)
PI_4 = Linear().inv_freq(LLAMA2, 16384)
ABF_50 = ABF().inv_freq(LLAMA2, 32768)


def test_plain_frequencies_are_the_definition():
    assert ROPE.dtype == torch.float64
    assert ROPE.tolist() == pytest.approx([10_000.0 ** (-2 * j / 128) for j in range(64)], rel=1e-14)


def test_theta_1_falls_by_six_percent():
    assert float(ABF_50[1] / ROPE[1]) == pytest.approx(0.9407, abs=5e-5)
    assert [float(ROPE[1]), float(ABF_50[1])] == pytest.approx([0.8660, 0.8146], abs=5e-5)


@pytest.mark.parametrize(
    ("frequencies", "table"),
    [
        (ROPE, [11.31, 5.40, 1.80, 0.33, -0.60, 0.28, -1.61, -1.06]),
        (PI_8, [11.31, 7.49, 4.72, 3.47, 2.48, 2.31, 1.35, 0.44]),
        (ABF_50, [11.31, 6.91, 5.57, 4.86, 4.33, 3.00, 1.51, 0.37]),
    ],
    ids=["rope", "pi", "abf"],
)
def test_all_ones_scores(frequencies, table):
    distances = torch.tensor([0, 100, 1000, 2000, 4096, 8192, 16384, 30000])
    assert all_ones_score(frequencies, distances).tolist() == pytest.approx(table, abs=5.1e-3)


def test_all_ones_score_at_zero_and_far_mean():
    assert float(all_ones_score(ROPE, 0)) == pytest.approx(math.sqrt(128), rel=1e-14)
    far = torch.arange(28_000, 32_001)
    means = [float(all_ones_score(frequencies, far).mean()) for frequencies in (ROPE, PI_8, ABF_50)]
    assert means == pytest.approx([-0.11, 0.48, 1.73], abs=6e-3)


def test_granularity_finite_and_asymptotic():
    measured = [granularity(frequencies) for frequencies in (ABF_50, PI_4, ROPE)]
    assert measured == pytest.approx([0.0788, 0.0290, 0.1094], abs=5e-5)
    d64 = RopeGeometry(dim=64, base=10_000.0, native_length=4096)
    measured = [granularity(s.inv_freq(d64, 16384)) for s in (ABF(), Linear(), NoScaling())]
    assert measured == pytest.approx([0.0858, 0.0311, 0.1163], abs=5e-5)
    limits = [granularity_asymptote(500_000), granularity_asymptote(10_000, 0.25), granularity_asymptote(10_000)]
    assert limits == pytest.approx([0.0762, 0.0271, 0.1086], abs=5e-5)


def test_granularity_approaches_its_asymptote():
    huge = RopeGeometry(dim=2**18, base=10_000.0, native_length=4096)
    small_alpha = 1 / 64  # the theorem's limit is for small frequencies
    wide = granularity(Linear(factor=64).inv_freq(huge, 4096 * 64))
    assert wide == pytest.approx(granularity_asymptote(10_000, small_alpha), rel=2e-4)


def test_granularity_of_smollm2():
    smollm2 = RopeGeometry(dim=64, base=100_000.0, native_length=8192)
    methods = [NoScaling(), ABF(base=5e5), ABF(base=5e6), Linear(factor=2), Linear(factor=4)]
    measured = [granularity(method.inv_freq(smollm2, 16384)) for method in methods]
    assert measured == pytest.approx([0.0958, 0.0858, 0.0752, 0.0507, 0.0257], abs=5e-5)


def test_neutral_settings_are_plain_rope():
    for scaling in (ABF(base=10_000), Linear(factor=1), NTK(factor=1), YaRN(factor=1), Llama3(factor=1)):
        assert torch.allclose(scaling.inv_freq(LLAMA2, 4096), ROPE, rtol=1e-14, atol=0), scaling
        assert scaling.attention_factor(LLAMA2, 4096) == 1.0


def test_interpolation_at_8p_is_rope_at_p():
    positions = torch.arange(0, 4096, 97, dtype=torch.float64)[:, None]
    assert torch.allclose((8 * positions * PI_8).cos(), (positions * ROPE).cos(), atol=1e-9)


def test_ntk_ends_meet_rope_and_interpolation():
    ntk = NTK().inv_freq(LLAMA2, 32768)
    assert float(ntk[0]) == 1.0
    assert float(ntk[-1]) == pytest.approx(float(PI_8[-1]), rel=1e-12)
    assert NTK().rope_parameters(LLAMA2, 32768)["rope_theta"] == pytest.approx(10_000 * 8 ** (128 / 126), rel=1e-14)


def test_yarn_by_hand():
    # turns of dimension 2j within 4096 tokens: 4096 w_j / 2 pi; 32 turns at j = 20.95 -> 20, 1 turn at 45.03 -> 46
    yarn = YaRN().inv_freq(LLAMA2, 32768)
    turns = 4096 * ROPE / (2 * math.pi)
    assert float(turns[20]) > 32 > float(turns[21])
    assert float(turns[45]) > 1 > float(turns[46])
    ratio = yarn / ROPE
    assert ratio[:21].tolist() == [1.0] * 21
    assert ratio[46:].tolist() == pytest.approx([1 / 8] * 18, rel=1e-14)
    assert float(ratio[33]) == pytest.approx(0.5 + 0.5 / 8, rel=1e-14)  # midway between 20 and 46
    assert YaRN().attention_factor(LLAMA2, 32768) == pytest.approx(1.2079441541679836, rel=1e-14)


def test_llama3_by_hand():
    llama3 = Llama3().inv_freq(LLAMA2, 32768)
    turns = 4096 * ROPE / (2 * math.pi)
    ratio = llama3 / ROPE
    assert (ratio[turns > 4] == 1).all()
    assert torch.allclose(ratio[turns < 1], torch.tensor(1 / 8, dtype=torch.float64), rtol=1e-14)
    middle = (turns > 1) & (turns < 4)
    kept = (turns[middle] - 1) / 3
    assert middle.any()
    assert torch.allclose(ratio[middle], kept + (1 - kept) / 8, rtol=1e-13)
