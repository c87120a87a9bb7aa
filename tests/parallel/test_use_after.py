"""What a sharded run leaves is a checkpoint like any other: measured, exported, proved."""

import pytest
import torch

from lit_long.errors import UserError
from lit_long.model import load_for_inference
from lit_long_hub import export_checkpoint
from tests.parallel.parallel_runs import fit_on_mesh

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("lora", [False, True])
def test_loaded_and_exported(corpus_dir, tiny_model_dir, tmp_path, lora):
    _, weights = fit_on_mesh(corpus_dir, tiny_model_dir, tmp_path, mesh=(1, 2), steps=2, save_every=2, lora=lora)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    loaded = load_for_inference(str(checkpoint))
    if not lora:
        found = dict(loaded.model.named_parameters())
        for name, weight in weights.items():
            assert torch.equal(found[name.removeprefix("model.")], weight), name
    export_checkpoint(checkpoint, tmp_path / "export")  # proves its logits in a fresh process
    exported = load_for_inference(str(tmp_path / "export"))
    ids = torch.arange(1, 200)[None]
    with torch.no_grad():
        torch.testing.assert_close(exported.model(ids).logits, loaded.model(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_save_that_was_not_finished(tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(UserError, match="no complete sharded checkpoint"):
        load_for_inference(str(tmp_path / "last.ckpt"))
    with pytest.raises(UserError, match="no complete sharded checkpoint"):
        export_checkpoint(tmp_path / "last.ckpt", tmp_path / "export")
