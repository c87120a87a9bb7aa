"""A recipe and its overlays as plain values, laid over each other as ``fit`` does, for commands without a trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_long.errors import UserError


def read_recipe(configs: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read and merge.

    Args:
        configs: YAML files; mappings are merged, everything else is replaced.
        overrides: ``KEY=VALUE``, e.g. ``trainer.max_steps=10``; values are YAML.

    Raises:
        UserError: no such file, no YAML, or an override without a value.
    """
    import yaml

    recipe: dict[str, Any] = {}
    for config in configs:
        try:
            content = yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"--config {config}: {str(error).splitlines()[0]}") from error
        if not isinstance(content, dict):
            raise UserError(f"--config {config}: a recipe is a mapping (model:, data:, trainer:)")
        recipe = merged(recipe, content)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is no setting; give KEY=VALUE, e.g. trainer.max_steps=10")
        content = yaml.safe_load(value)
        for name in reversed(key.split(".")):
            content = {name: content}
        recipe = merged(recipe, content)
    return recipe


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
