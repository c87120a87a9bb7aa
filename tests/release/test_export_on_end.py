"""A run that ends in a release: trained, proved, published."""

import pytest
import torch
import yaml
from release_folder import contents, remote_contents

from lit_long.entry import main


@pytest.fixture
def fit(tmp_path, corpus_dir, tiny_model_dir):
    """Train two steps with a callback on top."""

    def run(**options):
        saver = {"every_n_train_steps": 2, "save_last": True, "enable_version_counter": False}
        overlay = {
            "model": {"model": str(tiny_model_dir), "context_length": 256},
            "data": {
                "class_path": "lit_long.data.PretrainData",
                "init_args": {"corpus": str(corpus_dir), "sequence_length": 256, "tokens_per_step": 1024},
            },
            "trainer": {
                "max_steps": 2,
                "limit_val_batches": 0,
                "logger": {
                    "class_path": "lit_long.loggers.JSONLLogger",
                    "init_args": {"save_dir": str(tmp_path / "run")},
                },
                "callbacks": [
                    {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saver},
                    {"class_path": "lit_long_hub.ExportOnEnd", "init_args": options},
                ],
            },
        }
        path = tmp_path / "overlay.yaml"
        path.write_text(yaml.safe_dump(overlay))
        return main(["fit", "--config", "recipes/quickstart.yaml", "--config", str(path)])

    return run


def test_the_end_of_a_run_is_a_published_release(hub, fit, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    options = {"output": str(tmp_path / "model"), "license": "apache-2.0", "push_to": "acme/trained", "tag": "v1"}
    assert fit(**options) == 0
    assert "Published" in capsys.readouterr().out
    assert remote_contents(hub, "acme/trained", "v1") == contents(tmp_path / "model")
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[f"model.{name}"]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "tests"}, "not empty and not an earlier export"),
        ({"push_to": "noowner"}, "ORGANISATION/NAME"),
        ({"tag": "v1"}, "give push_to too"),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_first_step(hub, fit, tmp_path, capsys, options, message):
    assert fit(**({"output": str(tmp_path / "model")} | options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_without_a_token_nothing_is_trained(hub, fit, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert fit(output=str(tmp_path / "model"), push_to="acme/trained") == 2
    assert "token" in capsys.readouterr().err
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_release_that_fails_says_how_to_go_on(hub, fit, tmp_path, capsys):
    hub.fail("POST", "/commit/", status=403)
    assert fit(output=str(tmp_path / "model"), push_to="acme/trained") == 2
    error = capsys.readouterr().err
    assert "Training is finished and saved in" in error
    assert "lit-long push" in error
