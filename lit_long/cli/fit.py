"""fit, validate, test and predict: LightningCLI with the defaults that lit-long needs."""

import sys
import warnings
from typing import Any, cast

from lit_long.errors import UserError


def run(args: list[str]) -> int:
    """Run LightningCLI on ``args`` (the subcommand first)."""
    import logging

    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    # the loader is ours and has no workers; "litlogger" is an advertisement
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda r: "litlogger" not in r.getMessage())

    import lightning.pytorch as pl

    from lit_long.callbacks.progress import StepProgress
    from lit_long.callbacks.throughput import Throughput
    from lit_long.module import LongContextModule

    class LitLongCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.set_defaults({"trainer.use_distributed_sampler": False, "trainer.enable_model_summary": False})

        def _parse_ckpt_path(self) -> None:
            """Do not let a checkpoint's settings override the command line (lightning PR #21455)."""

        def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
            trainer: Any = super().instantiate_trainer(**kwargs)
            if trainer.progress_bar_callback is not None:
                trainer.callbacks[:] = [c for c in trainer.callbacks if c is not trainer.progress_bar_callback]
                trainer.callbacks.append(StepProgress())
            if not any(isinstance(c, Throughput) for c in trainer.callbacks):
                trainer.callbacks.insert(0, Throughput())
            return cast(pl.Trainer, trainer)

    sys.argv = ["lit-long", *args]  # LightningCLI warns when it is given arguments and finds others there
    try:
        LitLongCLI(
            LongContextModule,
            datamodule_class=pl.LightningDataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"description": "Train or validate a long-context model (see recipes/)."},
        )
    except UserError:
        raise
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    sys.stderr.flush()
    return 0
