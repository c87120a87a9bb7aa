"""Sharded checkpoints: resumed runs are straight runs, on other meshes too; a save that is cut off loses nothing."""

import pytest
import torch
from lightning.pytorch import Callback

from lit_long.errors import UserError
from lit_long.model.sharded_checkpoint import is_sharded_checkpoint, read_metadata
from lit_long.parallel.checkpoint import load_sharded, save_sharded
from tests.parallel.parallel_runs import fit, fit_on_mesh, lines

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 6


def same_weights(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("lora", [False, True])
def test_resumed_on_other_meshes(corpus_dir, tiny_model_dir, tmp_path, lora):
    _, expected = fit(corpus_dir, tiny_model_dir, tmp_path / "straight", steps=STEPS, lora=lora)
    straight = lines(tmp_path / "straight", "loss", "grad_norm", "lr")
    folder = tmp_path / "cut"
    for mesh, steps in (((1, 2), 2), ((2, 2), 4), ((1, 1), STEPS)):
        last = folder / "checkpoints" / "last.ckpt"
        options = {"steps": STEPS, "save_every": 2, "lora": lora, "callbacks": (StopAfter(steps),)}
        _, weights = fit_on_mesh(
            corpus_dir, tiny_model_dir, folder, mesh=mesh, ckpt=str(last) if last.exists() else None, **options
        )
    assert is_sharded_checkpoint(last)
    got = lines(folder, "loss", "grad_norm", "lr")
    assert got.keys() == straight.keys()
    for step, values in straight.items():
        assert got[step] == pytest.approx(values, rel=2e-5), step
    same_weights(weights, expected)
    assert len([p for p in last.parent.iterdir() if p.suffix == ".ckpt"]) == 3  # keep 2, and last
    assert not [p for p in last.parent.iterdir() if p.name.startswith(".")]


class StopAfter(Callback):
    """Stops a run after a step, as a time limit would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.step


def test_bit_equal_on_the_same_mesh(corpus_dir, tiny_model_dir, tmp_path):
    options = {"mesh": (1, 2), "steps": STEPS, "save_every": 2}
    _, expected = fit_on_mesh(corpus_dir, tiny_model_dir, tmp_path / "straight", **options)
    cut = tmp_path / "cut"
    fit_on_mesh(corpus_dir, tiny_model_dir, cut, **options, callbacks=(StopAfter(4),))
    last = str(cut / "checkpoints" / "last.ckpt")
    _, weights = fit_on_mesh(corpus_dir, tiny_model_dir, cut, **options, ckpt=last)
    assert lines(cut, "loss", "grad_norm") == lines(tmp_path / "straight", "loss", "grad_norm")
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_adapters_alone_are_saved(corpus_dir, tiny_model_dir, tmp_path):
    fit_on_mesh(corpus_dir, tiny_model_dir, tmp_path, mesh=(1, 2), steps=2, save_every=2, lora=True)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    metadata = torch.distributed.checkpoint.FileSystemReader(checkpoint).read_metadata()
    names = {name for name in metadata.state_dict_metadata if name.startswith("state_dict.")}
    assert names
    assert not [n for n in names if "q_proj.base_layer" in n]
    assert read_metadata(checkpoint)["lit_long"]["lora"]["r"] == 4


@pytest.mark.parametrize("where", ["dcp.save", "_write_metadata", "_replace"])
def test_a_save_that_fails_leaves_the_last_one(tmp_path, monkeypatch, where):
    def full(*_, **__):
        raise OSError("No space left on device")

    place = tmp_path / "last.ckpt"
    save_sharded(place, {"x": torch.full((3,), 1.0)}, {"step": 1}, lambda: None)
    with monkeypatch.context() as patched:
        patched.setattr(f"lit_long.parallel.checkpoint.{where}", full)
        with pytest.raises(OSError, match="No space"):
            save_sharded(place, {"x": torch.full((3,), 2.0)}, {"step": 2}, lambda: None)
    state = {"x": torch.zeros(3)}
    load_sharded(place, state)
    assert state["x"].tolist() == [1.0] * 3
    assert read_metadata(place) == {"step": 1}
    save_sharded(place, {"x": torch.full((3,), 3.0)}, {"step": 3}, lambda: None)  # what is left over is in no way
    assert read_metadata(place) == {"step": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "half.ckpt").mkdir()
    with pytest.raises(UserError, match="not a complete sharded checkpoint"):
        load_sharded(tmp_path / "half.ckpt", {})
    assert not is_sharded_checkpoint(tmp_path / "none.ckpt")
