"""The options that say what a release is like, for every command that converts a checkpoint.

Only the standard library is imported here, so that ``--help`` answers at once.
"""

from argparse import Namespace
from typing import Any

_DEFAULTS: dict[str, Any] = {
    "dtype": None,
    "max_shard_size": "5GB",
    "base_model": None,
    "tokenizer": None,
    "config_from": None,
    "module": "model",
    "native_length": None,
    "report": None,
    "language": [],
    "dataset": [],
}


def add_export_options(parser: Any, *, license_help: str | None = None) -> None:
    """Declare the options of a conversion.

    Args:
        parser: An argument parser, or a group of one.
        license_help: Help of ``--license``, where it also serves something else.
    """
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of the weights (default: the checkpoint's; float32 where LoRA is merged)",
    )
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="largest weight file, such as 500MB (default: 5GB)"
    )
    parser.add_argument(
        "--license",
        metavar="ID",
        help=license_help or "Hub id of the licence (default: what the base model's card says)",
    )
    parser.add_argument("--base-model", metavar="MODEL", help="Hub id or folder (default: what the checkpoint says)")
    parser.add_argument("--tokenizer", metavar="MODEL", help="Hub id or folder (default: what the checkpoint says)")
    parser.add_argument(
        "--config-from",
        metavar="MODEL",
        help="for a checkpoint of your own LightningModule: folder or Hub id with the config that was trained",
    )
    parser.add_argument(
        "--module",
        default="model",
        metavar="NAME",
        help="its attribute that is the transformers model (default: model)",
    )
    parser.add_argument(
        "--native-length", type=int, metavar="N", help="its base model's context (default: the config's own length)"
    )
    parser.add_argument("--report", metavar="FILE", help="report.md of `lit-long evaluate`, shown in the card")
    parser.add_argument(
        "--language", action="append", default=[], metavar="CODE", help="ISO 639 code for the card (repeatable)"
    )
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="ID", help="Hub id of the data for the card (repeatable)"
    )


def export_options(args: Namespace) -> dict[str, Any]:
    """The given options, as ``export_checkpoint`` and ``ExportOptions`` name them."""
    from lit_long_hub.plain_checkpoint import PlainModel

    plain = None
    if args.config_from is not None:
        plain = PlainModel(args.config_from, args.module, args.native_length)
    return {
        "dtype": args.dtype,
        "max_shard_size": args.max_shard_size,
        "license": args.license,
        "base_model": args.base_model,
        "tokenizer": args.tokenizer,
        "report": args.report,
        "languages": args.language,
        "datasets": args.dataset,
        "plain": plain,
    }


def given_options(args: Namespace) -> list[str]:
    """The options of a conversion that differ from their defaults, as they are written; ``--license`` left out."""
    return [f"--{name.replace('_', '-')}" for name, default in _DEFAULTS.items() if getattr(args, name) != default]
