"""Before the first step: packed documents do not see each other in this model, as it is about to be trained."""

from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.attention.leak import check_leak, require_no_leak
from lit_long.errors import UserError
from lit_long.model.find import huggingface_models
from lit_long.model.forward import hidden_states, in_forward


class LeakCheck(Callback):
    """Runs :func:`lit_long.attention.leak.check_leak` on every Hugging Face model of a module at the start of training.

    A few forward passes of 64 tokens. Where the data says that documents of a sequence may see each other
    (``data.document_mask: false``), a sequence is one document; the model is asked all the same, because its attention
    must still do what the batch says.

    Raises:
        UserError: no Hugging Face model in the module, or a leak.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask, on all ranks."""
        models = list(huggingface_models(pl_module))
        if not models:
            raise UserError(f"LeakCheck: {type(pl_module).__name__} has no transformers model in it")
        for model in models:
            with trainer.precision_plugin.forward_context():  # the kernels of training, in its dtype
                report = check_leak(model, partial(_forward, model))
            require_no_leak(report)
            if trainer.is_global_zero:
                pl_module.print(f"documents: {report}")


def _forward(model: Any, batch: dict[str, Any]) -> Any:
    return in_forward(model, lambda: hidden_states(model, batch))
