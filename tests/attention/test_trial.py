"""Probes of a model decide nothing about its training: kernels are chosen by the first real batch, in its dtype."""

import math

import pytest
import torch

from lit_long.attention import BACKENDS, attention_report, attention_trial, use_packed_attention
from lit_long.attention.backends import AttentionBackend
from lit_long.attention.leak import check_leak
from lit_long.entry import main
from lit_long.errors import UserError
from lit_long.model.output_layer import check_output_layer
from tests.attention.test_packed_attention import build
from tests.cli.test_fit import recipe  # noqa: F401 - a fixture


@pytest.fixture
def half(monkeypatch):
    """A kernel that takes bfloat16 only, as those of CUDA do."""
    seen = []

    def run(states, *arguments):
        seen.append({t.dtype for t in states})
        return BACKENDS["sdpa"].run(states, *arguments)

    def refuses(case):
        return None if case.dtype == torch.bfloat16 else "half precision only"

    monkeypatch.setitem(BACKENDS, "half", AttentionBackend("half", lambda: None, refuses, run))
    return seen


def test_the_leak_check_leaves_no_choice_behind():
    model = use_packed_attention(build("llama", dtype=torch.float32))
    report = check_leak(model)
    assert set(report.attention.chosen.values()) == {"sdpa"}
    assert attention_report(model).chosen == {}


def test_a_trial_gives_back_what_was_chosen_before_also_after_an_error():
    model = use_packed_attention(build("llama", dtype=torch.float32))
    with torch.no_grad():
        model(torch.zeros(1, 8, dtype=torch.int64), use_cache=False)
    before = attention_report(model)
    chosen = dict(before.chosen)
    with attention_trial(model, "sdpa") as report:
        assert attention_report(model) is report
        assert (report.asked, report.chosen) == ("sdpa", {})
    assert attention_report(model) is before
    with pytest.raises(ZeroDivisionError), attention_trial(model):
        raise ZeroDivisionError
    assert attention_report(model) is before
    assert before.chosen == chosen


def test_a_trial_of_a_stock_model_is_nothing():
    with attention_trial(build("llama", dtype=torch.float32)) as report:
        assert report is None


def test_a_pinned_half_precision_kernel_does_not_stop_the_proof_of_the_output_layer(half):
    model = use_packed_attention(build("llama", dtype=torch.float32), "half")
    assert check_output_layer(model) < 1e-3
    assert half == []


def test_a_broken_model_is_not_called_a_leak():
    model = use_packed_attention(build("llama", dtype=torch.float32))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    with pytest.raises(UserError, match=r"states of a llama model are not finite.*look at its weights"):
        check_leak(model)


def test_fit_and_check_with_a_pinned_half_precision_kernel(half, recipe, capsys):  # noqa: F811
    setting = ["model.attention_backend=half", "trainer.precision=bf16-mixed"]
    assert main(["check", *recipe, *setting]) == 0, capsys.readouterr()
    assert {*map(frozenset, half)} == {frozenset({torch.bfloat16})}
    options = [word for item in setting for word in f"--{item}".split("=")]
    assert main(["fit", *recipe, *options, "--trainer.max_steps", "1"]) == 0, capsys.readouterr()
    assert {*map(frozenset, half)} == {frozenset({torch.bfloat16})}
