"""fit, validate, test and predict: LightningCLI with the defaults that lit-long needs."""

import warnings
from typing import Any, cast

from lit_long.errors import UserError

TRY_AGAIN = 75  # exit code of a run that was told to stop, and did so (EX_TEMPFAIL of sysexits.h)


def run(args: list[str], *, preflight: Any = None) -> int:
    """Run LightningCLI on ``args`` (the subcommand first).

    ``preflight``: a callback that is there instead of everything that writes (``lit-long check``).
    """
    import logging

    from jsonargparse import ArgumentError
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

    # the loader is ours and has no workers; "litlogger" is an advertisement
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda r: "litlogger" not in r.getMessage())

    import lightning.pytorch as pl
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    import lit_long.parallel.strategy  # noqa: F401 - strategy: context_parallel
    from lit_long.callbacks.data_report import DataReport
    from lit_long.callbacks.final_checkpoint import FinalCheckpoint
    from lit_long.callbacks.leak_check import LeakCheck
    from lit_long.callbacks.newest import newest_of
    from lit_long.callbacks.plan_report import PlanReport
    from lit_long.callbacks.preemption import Preemption
    from lit_long.callbacks.progress import StepProgress
    from lit_long.callbacks.step_metrics import StepMetrics
    from lit_long.callbacks.throughput import Throughput
    from lit_long.module import LongContextModule
    from lit_long.rope import rope_methods

    class LitLongCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.set_defaults(
                {
                    "trainer.use_distributed_sampler": False,
                    "trainer.enable_model_summary": False,
                    # validate every val_check_interval micro-batches of the run, also if the run is shorter than that
                    "trainer.check_val_every_n_epoch": None,
                }
            )

        def _parse_ckpt_path(self) -> None:
            """Do not let a checkpoint's settings override the command line (lightning PR #21455)."""

        def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
            """``--ckpt_path last`` is the newest checkpoint that is complete; Lightning's is the newest by name."""
            kwargs: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
            if kwargs.get("ckpt_path") == "last":
                kwargs["ckpt_path"] = newest_of(self.trainer)
            return kwargs

        def _attention_is_packed(self) -> bool:
            return bool(self._get(self.config, "model.attention") == "packed")

        def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
            trainer: Any = super().instantiate_trainer(**kwargs)
            if preflight is not None:
                trainer.loggers = []
                trainer.callbacks[:] = [preflight]
                return cast(pl.Trainer, trainer)
            if trainer.progress_bar_callback is not None:
                trainer.callbacks[:] = [c for c in trainer.callbacks if c is not trainer.progress_bar_callback]
                trainer.callbacks.append(StepProgress())
            if not any(isinstance(c, Throughput) for c in trainer.callbacks):
                trainer.callbacks.insert(0, Throughput())
            if not any(isinstance(c, DataReport) for c in trainer.callbacks):
                trainer.callbacks.append(DataReport())
            if not any(isinstance(c, PlanReport) for c in trainer.callbacks):
                trainer.callbacks.append(PlanReport())
            trainer.callbacks += [FinalCheckpoint(), StepMetrics()]
            if not any(isinstance(c, Preemption) for c in trainer.callbacks):
                trainer.callbacks.append(Preemption())
            if self._attention_is_packed() and not any(isinstance(c, LeakCheck) for c in trainer.callbacks):
                trainer.callbacks.append(LeakCheck())
            return cast(pl.Trainer, trainer)

    # sys.argv stays as it is: Lightning starts the other processes of this machine with it, lit-long check among them
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended to run from within Python")
    quiet: dict[str, Any] = {"exit_on_error": False}
    try:
        cli = LitLongCLI(
            LongContextModule,
            args=args,
            datamodule_class=pl.LightningDataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfigCallback if preflight is None else None,
            save_config_kwargs={"overwrite": True},
            parser_kwargs=quiet | dict.fromkeys(LitLongCLI.subcommands(), quiet),
        )
    except ArgumentError as error:
        hint = f"options: lit-long {args[0]} --help"
        if "RopeScaling" in str(error):
            hint = f"rope methods: {', '.join(cls.__name__ for cls in rope_methods().values())}"
        raise _user_error(error) or UserError(f"{error} ({hint})") from error
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except (ValueError, TypeError) as error:
        raise _user_error(error) or error from None
    except SystemExit as error:  # --help, --print_config
        return error.code if isinstance(error.code, int) else 1
    trainer: Any = cli.trainer
    stopped = any(isinstance(c, Preemption) and c.stopped for c in trainer.callbacks)
    return TRY_AGAIN if stopped else 0


def _user_error(error: BaseException | None) -> UserError | None:
    """The mistake that jsonargparse wrapped into "does not validate against any subtype", if that is what happened."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error
