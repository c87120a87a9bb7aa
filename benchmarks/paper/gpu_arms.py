"""The arms of the studies on one GPU: which recipe and overlay, how many tokens, and what a trial makes small.

Positions: SmolLM2-135M by its own recipe, continued from 8,192 at 32,768 tokens by each method. Curricula: a model of
64 million parameters from scratch (recipes/scratch_gpu.yaml). All arms of a study have one seed and one mixture.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from arms import HERE, ROOT, Arm, sources

LENGTH, TOKENS_PER_STEP = 32_768, 262_144  # of both recipes
ABLATIONS = ROOT / "recipes" / "ablations"
# arm -> overlay, those that say most first
POSITIONS = {"abf": "c_abf", "rope": "a_rope", "pi": "b_pi", "xpos_abf": "d_xpos_abf"}
CURRICULA = {"32k": "a_32k", "switch_40": "c_switch_40", "switch_80": "d_switch_80", "switch_20": "b_switch_20"}
TOKENS = {"positions": 52_428_800, "curriculum": 104_857_600}  # where nothing else is asked for
SCRATCH = HERE / "recipes" / "scratch_gpu.yaml"
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"num_key_value_heads": 1, "head_dim": 32}


@dataclass(frozen=True, kw_only=True)
class GpuArm:
    """An arm with what is to be known of it before it runs.

    Attributes:
        name: as on the command line.
        study: ``positions`` or ``curriculum``.
        arm: the run.
        steps: optimizer steps that are planned.
        tokens_per_step: tokens of each.
        length: tokens of a sequence at the end.
        native: length that the base was trained at; of a curriculum, the short stage's.
        tiny: all lengths are divided by it: 1, or a trial.
        formula_flops: of the planned run by the paper's formula; curricula only.
    """

    name: str
    study: str
    arm: Arm
    steps: int
    tokens_per_step: int
    length: int
    native: int
    tiny: int
    formula_flops: float | None


def _config(model: Path) -> dict[str, Any]:
    from lit_long.errors import UserError

    file = model / "config.json"
    if not file.exists():
        raise UserError(f"{model} is no folder of a model (it has no config.json); make smollm2 makes one")
    return dict(json.loads(file.read_text()))


def study_of(name: str) -> str:
    """The study that an arm belongs to."""
    return "positions" if name in POSITIONS else "curriculum"


def gpu_arm(
    name: str, work: Path, *, model: Path, tokens: int | None = None, tiny: int = 1, settings: Sequence[str] = ()
) -> GpuArm:
    """Put an arm together.

    Args:
        name: one of ``POSITIONS`` or ``CURRICULA``.
        work: folder of corpora and runs.
        model: the base, a Hugging Face folder; of a curriculum only its tokenizer.
        tokens: to train on, whole steps of it; default: ``TOKENS``.
        tiny: divide all lengths and the tokens of a step by this, for a trial.
        settings: ``KEY=VALUE`` each, for ``lit-long fit``, on top of everything.

    Raises:
        UserError: no such model, tokens for less than two steps, or a setting without a value.
    """
    import torch

    from lit_long.errors import UserError

    study, length, per_step = study_of(name), LENGTH // tiny, TOKENS_PER_STEP // tiny
    asked = TOKENS[study] if tokens is None else tokens
    steps = asked // per_step
    if steps < 2:
        raise UserError(f"--tokens {asked:,} are less than two steps of {per_step:,}")
    found: dict[str, Any] = {
        "seed_everything": 1,
        "data.init_args.seed": 1,
        "trainer.max_steps": steps,
        **sources(work),
    }
    if tiny > 1:
        found |= {"model.context_length": length, "data.init_args.tokens_per_step": per_step}
        found["data.init_args.micro_batch"] = per_step // length  # a step at once
    if not torch.cuda.is_available():
        found["trainer.precision"] = "32-true"
    if study == "positions":
        configs, own, native, flops = _positions(name, model, length, tiny)
    else:
        configs, own, native, flops = _curriculum(name, model, steps, tiny)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: give KEY=VALUE, as lit-long fit takes --KEY=VALUE")
        own[key] = value
    return GpuArm(
        name=name,
        study=study,
        arm=Arm(work / f"gpu_{name}", configs, found | own),
        steps=steps,
        tokens_per_step=per_step,
        length=length,
        native=native,
        tiny=tiny,
        formula_flops=flops,
    )


def _positions(
    name: str, model: Path, length: int, tiny: int
) -> tuple[tuple[Path, ...], dict[str, Any], int, float | None]:
    configs = (
        ROOT / "recipes" / "smollm2_135m_32k.yaml",
        ROOT / "recipes" / "mixtures" / "texts.yaml",
        ABLATIONS / "positions" / f"{POSITIONS[name]}.yaml",
    )
    own: dict[str, Any] = {"model.model": str(model)}
    if tiny > 1:
        own["data.init_args.sequence_length"] = length
    return configs, own, int(_config(model)["max_position_embeddings"]), None


def _curriculum(
    name: str, model: Path, steps: int, tiny: int
) -> tuple[tuple[Path, ...], dict[str, Any], int, float | None]:
    from lit_long.data.schedule import LengthSchedule, Stage
    from lit_long.flops import megatron_run_flops

    overlay = ABLATIONS / "curriculum" / f"{CURRICULA[name]}.yaml"
    stages = yaml.safe_load(overlay.read_text())["data"]["init_args"]["schedule"]["stages"]
    stages = [stage | {"sequence_length": stage["sequence_length"] // tiny} for stage in stages]
    shape = yaml.safe_load(SCRATCH.read_text())["model"]["model_config"]
    own: dict[str, Any] = {"model.tokenizer": str(model)}
    if tiny > 1:
        shape |= TINY | {"max_position_embeddings": LENGTH // tiny, "vocab_size": _config(model)["vocab_size"]}
        own |= {"model.model_config": shape, "data.init_args.schedule": {"stages": stages}}
    spans = LengthSchedule(tuple(Stage(**stage) for stage in stages)).spans(
        steps=steps, tokens_per_step=TOKENS_PER_STEP // tiny
    )
    flops = megatron_run_flops(
        spans,
        layers=shape["num_hidden_layers"],
        hidden=shape["hidden_size"],
        tokens_per_step=TOKENS_PER_STEP // tiny,
    )
    short = 4_096 // tiny  # of the arms that have a short stage
    return (SCRATCH, ROOT / "recipes" / "mixtures" / "texts.yaml", overlay), own, short, flops
