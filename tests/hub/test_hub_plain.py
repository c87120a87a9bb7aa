"""Checkpoints of somebody's own LightningModule: the user says which config was trained."""

import pytest
import torch
from hub_checkpoints import CONTEXT, NATIVE, llama

from lit_long.errors import UserError
from lit_long_hub import export_checkpoint
from lit_long_hub.plain_checkpoint import PlainModel


@pytest.fixture
def own(tmp_path, tokenizer_folder):
    """A checkpoint that Lightning wrote of a module with the model in ``net``, and its config beside the tokenizer."""
    import shutil

    import lightning

    class Own(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = llama("yarn", tied=True)
            self.other = torch.nn.Linear(2, 2)

        def training_step(self, batch, number):
            return self.net(input_ids=batch, labels=batch).loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Own()
    trainer = lightning.Trainer(
        max_steps=1, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.randint(300, (2, 8)), batch_size=2))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    folder = tmp_path / "config"
    shutil.copytree(tokenizer_folder, folder)
    module.net.config.save_pretrained(folder)
    return tmp_path / "own.ckpt", folder, module.net


def test_it_is_exported_and_proved(own, tmp_path):
    from transformers import AutoModelForCausalLM

    path, config, net = own
    result = export_checkpoint(path, tmp_path / "out", plain=PlainModel(str(config), "net", NATIVE))
    assert result.verification["passed"]
    ids = torch.arange(50)[None]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert model.config.max_position_embeddings == CONTEXT
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, net.eval()(ids).logits)
    assert "## Training" not in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (lambda config: None, "--config-from"),
        (lambda config: PlainModel(str(config)), "--module"),
        (lambda config: PlainModel(str(config), "other"), "do not fit LlamaForCausalLM"),
        (lambda config: PlainModel(str(config / "nothing"), "net"), "cannot be read"),
        (lambda config: PlainModel(str(config), "net", 10**6), "--native-length is 1000000"),
    ],
)
def test_what_is_missing_is_said(own, tmp_path, plain, message):
    path, config, _ = own
    with pytest.raises(UserError, match=message):
        export_checkpoint(path, tmp_path / "out", plain=plain(config))
    assert not (tmp_path / "out").exists()
