"""The InstructData that a recipe describes, for commands that look at its examples without a trainer."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_long.data.instruct.data import InstructData


def read_instruct(configs: list[str]) -> "tuple[InstructData, str | None]":
    """The InstructData of a recipe, and the recipe's tokenizer.

    Raises:
        UserError: no such file, no YAML, or another DataModule.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    from lit_long.cli.recipe_yaml import read_recipe
    from lit_long.data.instruct.data import InstructData
    from lit_long.errors import UserError

    recipe = read_recipe(configs)
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
