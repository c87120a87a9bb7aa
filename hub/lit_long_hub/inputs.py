"""Everything that a release is made from, read and checked before anything is written or sent."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long_hub.adapter import AdapterBase, find_base, open_adapter, plan_adapter
from lit_long_hub.architecture import Architecture, read_architecture
from lit_long_hub.checkpoint import Checkpoint, read_checkpoint
from lit_long_hub.config_files import release_config, special_ids
from lit_long_hub.convert import WeightPlan, plan_weights, release_dtype
from lit_long_hub.custom_code import check_dtype
from lit_long_hub.front_matter import front_matter_problems
from lit_long_hub.licence import Licence, find_licence
from lit_long_hub.plain_checkpoint import PlainModel
from lit_long_hub.privacy import hub_id
from lit_long_hub.release_weights import ReleaseWeights, open_weights
from lit_long_hub.report import EvaluationReport, read_report
from lit_long_hub.tokenizer_files import TokenizerFiles, find_tokenizer
from lit_long_hub.weights import cached_folder


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What a user may say about a release."""

    dtype: str | None = None
    """``float32``, ``bfloat16`` or ``float16``; None keeps the checkpoint's (float32 where LoRA is merged)."""

    max_shard_size: int | str = "5GB"
    """Largest weight file, in bytes or as text such as ``5GB``."""

    license: str | None = None
    """Hub id of the licence; None takes it from the base model's card."""

    base_model: str | None = None
    """Hub id or folder of the base model, where the checkpoint's own is gone or private."""

    tokenizer: str | None = None
    """Hub id or folder of the tokenizer, likewise."""

    report: str | Path | None = None
    """``report.md`` of ``lit-long evaluate``, whose tables and plots go into the card."""

    languages: Sequence[str] = ()
    """ISO 639 codes for the card, such as ``en``."""

    datasets: Sequence[str] = ()
    """Hub ids of the data for the card."""

    plain: PlainModel | None = None
    """For a checkpoint of another LightningModule than lit-long's: where its config is."""

    adapter: bool = False
    """Whether a LoRA run's adapter is released by itself, and not merged into its base model."""


@dataclass(frozen=True)
class ReleaseInputs:
    """What a release is made from."""

    source: Checkpoint
    architecture: Architecture
    weights: ReleaseWeights
    plan: WeightPlan
    licence: Licence
    evaluation: EvaluationReport | None
    words: TokenizerFiles

    token_ids: dict[str, int | list[int]]
    """Special token ids of the release."""

    config: dict[str, Any]
    """The content of config.json."""

    base: str | None
    """Folder or Hub id of the base model."""

    base_revision: str | None
    options: ExportOptions

    adapter: AdapterBase | None = None
    """The public base model of an adapter; None for whole models."""

    @property
    def public_base(self) -> str | None:
        """Hub id of the base model, None where it is not public."""
        return hub_id(self.base, revision=self.base_revision)

    @property
    def places(self) -> list[Path]:
        """Files and folders that are read."""
        return [
            self.source.path,
            *(Path(place) for place in (self.base, self.words.source) if place and Path(place).is_dir()),
        ]


def read_inputs(checkpoint: str | Path, options: ExportOptions) -> ReleaseInputs:
    """Read and check everything that a release of a checkpoint is made from; no weight is read yet.

    Args:
        checkpoint: A checkpoint of ``LongContextModule``, a file or a sharded folder.
        options: What the user says.

    Raises:
        UserError: Something in the input that a user can correct.
    """
    entered = {"language": list(options.languages), "datasets": list(options.datasets)}
    if problems := front_matter_problems(entered):
        raise UserError(f"For the card: {'; '.join(problems)}.")
    source = read_checkpoint(checkpoint, options.plain)
    architecture = read_architecture(source.record["config"])
    base: str | None
    revision: str | None
    adapter = _adapter_base(source, architecture, options) if options.adapter else None
    if adapter is not None:
        base, revision = adapter.name, adapter.revision
        weights = open_adapter(source, architecture, adapter)
        plan = plan_adapter(weights, dtype=release_dtype(weights.release.specs(), options.dtype))
    else:
        base, revision = source.base_model(options.base_model)
        weights = open_weights(source, architecture, base=base, revision=revision)
        plan = plan_weights(
            weights.release.specs(),
            weights.release_names,
            dtype=release_dtype(weights.release.specs(), options.dtype),
            max_shard_size=options.max_shard_size,
        )
    check_dtype(architecture.custom_code, plan.dtype)
    licence = find_licence(options.license, cached_folder(base, revision))
    evaluation = read_report(options.report, source.path) if options.report is not None else None
    name = source.tokenizer(options.tokenizer)
    words = find_tokenizer(
        name, vocab_size=int(architecture.config.vocab_size), revision=revision if name == base else None
    )
    training = source.record.get("training") or {}
    words = replace(words, chat_template=training.get("chat_template"))
    token_ids = special_ids(architecture.config, words.token_ids, stop=training.get("stop_token_id"))
    config = release_config(architecture, context_length=source.context_length, dtype=plan.dtype, token_ids=token_ids)
    return ReleaseInputs(
        source, architecture, weights, plan, licence, evaluation, words, token_ids, config, base, revision, options,
        adapter,
    )  # fmt: skip


def _adapter_base(source: Checkpoint, architecture: Architecture, options: ExportOptions) -> AdapterBase:
    if architecture.custom_code is not None:
        raise UserError(
            "This run has xPos positions, which need code of their own beside whole weights; an adapter would be "
            "loaded into a stock model without them. Export the merged model, without --adapter."
        )
    return find_base(source, options.base_model)
