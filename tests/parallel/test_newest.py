"""The newest checkpoint that is complete, whatever a kill has left beside it."""

import os

import pytest
import torch

from lit_long.parallel.checkpoint import save_sharded
from lit_long.parallel.newest import newest_checkpoint


def test_passes_over_what_is_broken(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None
    assert newest_checkpoint(tmp_path) is None
    torch.save({"global_step": 10}, tmp_path / "step=10.ckpt")
    save_sharded(tmp_path / "step=20.ckpt", {"x": torch.zeros(2)}, {"global_step": 20}, lambda: None)
    (tmp_path / "step=30.ckpt").mkdir()  # cut off
    (tmp_path / "step=40.ckpt").write_bytes((tmp_path / "step=10.ckpt").read_bytes()[:100])  # cut short
    os.symlink("step=50.ckpt", tmp_path / "last.ckpt")  # what it points to was removed
    os.utime(tmp_path / "step=10.ckpt")  # the newest file, of an older step
    with pytest.warns(UserWarning, match="passed over") as said:
        assert newest_checkpoint(tmp_path) == tmp_path / "step=20.ckpt"
    assert len(said) == 2
