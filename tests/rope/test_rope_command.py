"""``lit-long rope``: the paper's figures from the command line, and what users get wrong."""

import json

import pytest

from lit_long.entry import main
from lit_long.errors import UserError

LLAMA2 = ["rope", "--head-dim", "128", "--base", "10000", "--native", "4096"]


def numbers(capsys, *words):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_figures_of_the_paper(capsys):
    """Fig. 4 and Theorem 1 (fact sheet, sections 2.4 and 2.5) on Llama 2's heads."""
    found = numbers(capsys, *LLAMA2, "--length", "32768")
    rows = {row["name"]: row for row in found["methods"]}
    for name, at_4096, granularity in (("none", -0.60, 0.1094), ("abf", 4.33, 0.0788), ("linear", 2.48, None)):
        assert rows[name]["scores"]["0"] == pytest.approx(128**0.5)
        assert rows[name]["scores"]["4096"] == pytest.approx(at_4096, abs=0.005)
        if granularity:
            assert rows[name]["granularity"] == pytest.approx(granularity, abs=5e-5)
    assert rows["linear"]["unseen"] == 0  # interpolated: no angle beyond those of the native length
    assert rows["none"]["unseen"] > 0
    assert rows["abf"]["rope_parameters"]["rope_theta"] == 500_000
    far = {row["name"]: row["far_score"] for row in numbers(capsys, *LLAMA2, "--length", "32000")["methods"]}
    for name, mean in (("none", -0.11), ("abf", 1.73), ("xpos_abf", 1.65)):  # over 28,000 to 32,000
        assert far[name] == pytest.approx(mean, abs=0.005)


def test_a_model_s_config_is_enough(capsys, tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=512).save_pretrained(tmp_path)
    words = ["rope", "--model", str(tmp_path), "--length", "4096", "--method", "abf:base=5e6", "yarn"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "native length 512" in shown
    assert '"rope_theta": 5000000.0' in shown
    assert json.loads((tmp_path / "out" / "rope.json").read_text())["geometry"]["dim"] == 16
    assert (tmp_path / "out" / "rope.md").read_text() in shown
    assert (tmp_path / "out" / "rope.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "abff", "--length", "32768"], "did you mean 'abf'"),
        (["--method", "abf:base", "--length", "32768"], "'base' is not KEY=NUMBER"),
        (["--method", "abf:bas=5e6", "--length", "32768"], "has no option 'bas'"),
        (["--length", "1024"], "no method takes this model to 1,024 tokens"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError, match=message):
        main([*LLAMA2, *words, "--debug"])


def test_a_method_that_refuses_says_why_beside_the_others(capsys):
    assert main([*LLAMA2, "--length", "32768", "--method", "abf", "linear:factor=4"]) == 0
    assert "linear: cannot: rope method 'linear': factor 4" in capsys.readouterr().out
