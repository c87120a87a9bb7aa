"""Writes the files of a release that stand beside its weights: record, tokenizer, licence, card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_long_hub.adapter import whole_tensors
from lit_long_hub.adapter_card import AdapterFacts
from lit_long_hub.atomic_file import copy_file, write_json, write_text
from lit_long_hub.card import CardFacts, model_card
from lit_long_hub.config_files import write_generation_config
from lit_long_hub.evaluation_results import EvaluationResults
from lit_long_hub.inputs import ReleaseInputs
from lit_long_hub.licence_rules import notice_text
from lit_long_hub.output_folder import RECORD_NAME, release_record
from lit_long_hub.tokenizer_files import write_tokenizer


def write_companions(inputs: ReleaseInputs, folder: Path) -> list[str]:
    """Write the record, the tokenizer, the generation config and the legal files; returns their names.

    Args:
        inputs: What the release is made from.
        folder: Where to write; exists.
    """
    record = release_record(inputs.source, base_model=inputs.public_base, base_revision=inputs.base_revision)
    write_json(folder / RECORD_NAME, record)
    files = [RECORD_NAME, *write_tokenizer(inputs.words, folder, context_length=inputs.source.context_length)]
    files.append(write_generation_config(folder, inputs.token_ids))
    files += [copy_file(path, folder / path.name).name for path in inputs.licence.files]
    if (notice := notice_text(inputs.licence.entries.get("license"), inputs.licence.files)) is not None:
        write_text(folder / "NOTICE", notice)
        files.append("NOTICE")
    return files


def write_card(inputs: ReleaseInputs, folder: Path, verification: Mapping[str, Any] | None) -> str:
    """Write README.md, which says what the proof found; returns its name.

    Args:
        inputs: What the release is made from.
        folder: Where to write; exists.
        verification: The content of verification.json; None where the proof was left out.
    """
    evaluation = inputs.evaluation
    facts = CardFacts(
        record=inputs.source.record,
        config=inputs.config,
        base_model=inputs.public_base,
        parameters=inputs.plan.parameters,
        licence=inputs.licence.entries,
        verification=verification,
        evaluation=evaluation.markdown if evaluation else None,
        results=evaluation.results if evaluation else EvaluationResults(),
        languages=tuple(inputs.options.languages),
        datasets=tuple(inputs.options.datasets),
        adapter=None if inputs.adapter is None else AdapterFacts(inputs.adapter.revision, whole_tensors(inputs.plan)),
    )
    write_text(folder / "README.md", model_card(facts))
    return "README.md"
