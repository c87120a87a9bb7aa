"""The power law in an evaluation's report: a planted one comes back, and what is none is said."""

import numpy as np
import torch
from evaluation_stubs import random_corpus

from lit_long.evaluation import PowerLaw, take_windows
from lit_long.evaluation.battery import Evaluation, ModelResult
from lit_long.evaluation.plot import write_plots
from lit_long.evaluation.position_loss import summarise
from lit_long.evaluation.report import to_json, to_markdown

LENGTH = 1024


def evaluation(**losses):
    """Models with the given mean losses by position, on twelve documents that differ."""
    windows = take_windows(random_corpus([1500] * 12), LENGTH, 12, seed=0)
    noise = np.random.default_rng(0).normal(0, 0.05, (12, LENGTH)) + np.linspace(-0.3, 0.3, 12)[:, None]
    models = [
        ModelResult(
            name=name, path=name, source={}, own_native_length=256, context=None,
            position=summarise(torch.from_numpy(mean + noise).float(), windows, 256),
        )
        for name, mean in losses.items()
    ]  # fmt: skip
    return Evaluation(windows=windows, native_length=256, models=tuple(models), corpus={})


def test_a_planted_law_and_a_rising_loss(tmp_path):
    positions = np.arange(1, LENGTH + 1)
    found = evaluation(good=PowerLaw(20.0, 0.5, 1.5)(positions), broken=2 + positions / 1000)
    laws = to_json(found)["power_law"]
    assert abs(laws["good"]["beta"] - 0.5) < 0.1
    low, high = laws["good"]["intervals"]["beta"]
    assert low < 0.5 < high
    assert laws["good"]["positions"] == [65, LENGTH]
    assert "do not fall with context" in laws["broken"]["none"]
    page = to_markdown(found)
    assert "## Power law of context" in page
    assert "broken: the losses do not fall with context" in page
    assert tmp_path / "power_law.png" in write_plots(found, tmp_path)


def test_short_windows_have_no_law(tmp_path):
    windows = take_windows(random_corpus([600] * 6), 256, 6, seed=0)
    position = summarise(torch.ones(6, 256), windows, 128)
    model = ModelResult(name="m", path="m", source={}, own_native_length=128, position=position, context=None)
    found = Evaluation(windows=windows, native_length=128, models=(model,), corpus={})
    assert to_json(found)["power_law"] == {}
    assert "Power law" not in to_markdown(found)
