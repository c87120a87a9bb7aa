"""The four data arms as a user composes them: recipe files over each other."""

from pathlib import Path

import jsonargparse
import lightning.pytorch as pl
import numpy as np
import pytest

from lit_long.data import mixture as module
from tests.data.fakes import FakeCorpus

RECIPES = Path(__file__).parents[2] / "recipes"
ARMS = ["a_long_mix", "b_base_mix", "c_no_long", "d_upsample_long"]


@pytest.fixture
def data_of(monkeypatch):
    random = np.random.default_rng(0)
    lengths = [random.integers(*span, count) for span, count in (((9e3, 2e5), 60), ((50, 9e3), 900), ((10, 12e3), 300))]
    corpus = FakeCorpus(np.concatenate(lengths), np.repeat([0, 1, 2], [len(part) for part in lengths]))
    corpus.source_names = ["books", "manuals", "code"]
    monkeypatch.setattr(module.build_parts, "__defaults__", (lambda path, split: corpus,))

    def build(*overlays):
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--config", action="config")
        parser.add_subclass_arguments(pl.LightningDataModule, "data")
        files = [RECIPES / "mixtures/texts.yaml", *(RECIPES / f"ablations/data_mix/{name}.yaml" for name in overlays)]
        args = [f"--config={file}" for file in files]
        args += ["--data.sequence_length=32768", "--data.validation_split=null"]
        return parser.instantiate_classes(parser.parse_args(args)).data

    return build


def shares(data, over=8192):
    by_source, long = {}, 0.0
    for part in data.parts:
        by_source[part.name] = by_source.get(part.name, 0) + part.share
        sizes = np.diff(part.documents.starts)
        long += part.share * sizes[sizes > over].sum() / sizes.sum()
    return by_source, long


def test_each_arm_is_one_short_overlay(data_of):
    arms = {name: shares(data_of(name)) for name in ARMS}
    assert arms["a_long_mix"][0] == pytest.approx({"books": 0.3, "manuals": 0.35, "code": 0.35})
    for name in ARMS[1:]:
        assert arms[name][0] == pytest.approx({"manuals": 0.5, "code": 0.5})
    assert arms["c_no_long"][1] == 0
    assert arms["d_upsample_long"][1] == pytest.approx(0.87)
    assert 0 < arms["b_base_mix"][1] < arms["d_upsample_long"][1]
    for name in ARMS:
        lines = (RECIPES / f"ablations/data_mix/{name}.yaml").read_text().splitlines()
        assert len([line for line in lines if not line.startswith("#")]) <= 6


def test_the_arms_have_different_orders(data_of):
    assert len({data_of(name).plan.identity for name in ARMS}) == 4
