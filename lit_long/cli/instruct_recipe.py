"""The InstructData that a recipe describes, for commands that look at its examples without a trainer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_long.data.instruct.data import InstructData


def read_instruct(configs: list[str]) -> "tuple[InstructData, str | None]":
    """The InstructData of a recipe, and the recipe's tokenizer.

    Raises:
        UserError: no such file, no YAML, or another DataModule.
    """
    from pathlib import Path

    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

    from lit_long.data.instruct.data import InstructData
    from lit_long.errors import UserError

    recipe: dict[str, Any] = {}
    for config in configs:
        try:
            content = yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"--config {config}: {str(error).splitlines()[0]}") from error
        recipe = _laid_over(recipe, content)
    data, model = recipe.get("data") or {}, recipe.get("model") or {}
    kind = str(data.get("class_path", "")).rpartition(".")[2]
    if kind != "InstructData":
        raise UserError(f"--config: data.class_path is {data.get('class_path')!r}; this command reads InstructData")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(InstructData, "data")
    try:
        found = parser.instantiate_classes(parser.parse_object({"data": data.get("init_args") or {}}))
    except ArgumentError as error:
        cause = error.__cause__
        raise (cause if isinstance(cause, UserError) else UserError(str(error))) from error
    return found.data, model.get("tokenizer") or model.get("model")


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged
