"""Every ``lit-long`` command of README and docs/ is one: its options are there, and so are the recipes it names.

Commands in blocks are parsed by the real command line. Where a page writes a word in capitals (``R.yaml``), an example
stands in for it. In running text commands are cut short, so there only their options are looked up.
"""

import argparse
import contextlib
import io
import re
import shlex
from itertools import pairwise

import pytest
import yaml

from lit_long.cli.recipe_yaml import merged, read_recipe
from lit_long.entry import LIGHTNING, _commands, _load
from tests.docs.pages import ROOT, blocks, inline_code, pages

SHELL = ("", "sh", "bash", "console", "text")
PLACEHOLDER = re.compile(r"[A-Z]\w*\.yaml|RECIPE|FOLDER")
EXAMPLE = {"fit": "recipes/quickstart.yaml", "prepare": "recipes/data/quickstart.yaml"}


def commands_of(text):
    """Words of each ``lit-long`` command in a block or span, without what a shell adds (comments, pipes, brackets)."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s[|&;]+\s|\s#\s", line):
            if re.match(r"\s*(\$ |torchrun .*|srun .*)?(\.venv/bin/)?lit-long \S", part):
                words = shlex.split(re.sub(r"\[[^\]]*\]|\.\.\.", "", part))
                yield words[[word.removeprefix(".venv/bin/") for word in words].index("lit-long") + 1 :]


def in_blocks():
    for page in pages():
        for block in blocks(page):
            if block.language in SHELL:
                yield from ((f"{page}:{block.line}", words) for words in commands_of(block.text))


def in_text():
    for page in pages():
        for line, code in inline_code(page):
            if code.startswith(("lit-long ", ".venv/bin/lit-long ")):
                with contextlib.suppress(ValueError):  # a quote is open: cut short
                    yield from ((f"{page}:{line}", words) for words in commands_of(code.replace("\n", " ")))


def parser_of(command):
    parser = argparse.ArgumentParser(prog=f"lit-long {command}", exit_on_error=False)
    _load(_commands()[command]).add_arguments(parser)
    return parser


def parse(command, words):
    """Parse as ``lit-long`` does; returns the values."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser_of(command).parse_args(words)
    except SystemExit:
        raise AssertionError(f"lit-long {' '.join([command, *words])}: {said.getvalue().strip()}") from None


def configs_of(words):
    return [after for word, after in pairwise(words) if word == "--config"]


@pytest.fixture(scope="module")
def training():
    """The parser of ``lit-long fit``, for whole recipes as values."""
    import lightning.pytorch as pl
    from lightning.pytorch.cli import LightningArgumentParser

    import lit_long.parallel.strategy  # noqa: F401 - strategy: context_parallel
    from lit_long.module import LongContextModule

    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    parser.add_lightning_class_args(LongContextModule, "model")
    parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
    parser.add_argument("--seed_everything")
    parser.add_argument("--ckpt_path")
    return parser


ALL = [*in_blocks()]


def test_there_are_commands():
    assert {words[0] for _, words in ALL} >= {"fit", "prepare", "plan", "check", "evaluate", "export", "push", "pull"}


@pytest.mark.parametrize(("place", "words"), ALL, ids=[place for place, _ in ALL])
def test_command(place, words, training, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, *rest = words
    assert command in {*LIGHTNING, *_commands()}, f"{place}: no command {command}"
    rest = [PLACEHOLDER.sub(EXAMPLE.get(command, EXAMPLE["fit"]), word) for word in rest]
    for config in configs_of(rest):
        assert (ROOT / config).is_file() or config == "layout.yaml", f"{place}: no file {config}"
    if command not in LIGHTNING:
        args = parse(command, rest)
        if overrides := getattr(args, "overrides", None):
            read_recipe([], overrides)
        return
    recipe = read_recipe([config for config in configs_of(rest) if (ROOT / config).is_file()])
    settings = [word for number, word in enumerate(rest) if word != "--config" and rest[number - 1] != "--config"]
    for name, value in zip(settings[::2], settings[1::2], strict=True):
        assert name.startswith("--"), f"{place}: {name}"
        content = yaml.safe_load(value)
        inside = name[2:].split(".")
        if inside[0] == "data" and inside[1:2] not in (["class_path"], ["init_args"]):
            inside.insert(1, "init_args")
        if inside[:2] == ["trainer", "logger"] and inside[2] != "init_args":
            inside.insert(2, "init_args")
        if inside == ["model", "rope"]:
            inside, content = [*inside, "class_path"], f"lit_long.rope.{content}"
        for key in reversed(inside):
            content = {key: content}
        recipe = merged(recipe, content)
    recipe.pop("seed_everything", None)
    training.parse_object(recipe)


def test_options_in_running_text():
    for place, (command, *words) in in_text():
        if command.startswith("-"):
            assert command in ("--help", "--version"), place
            continue
        assert command in {*LIGHTNING, *_commands()}, f"{place}: no command {command}"
        for config in configs_of(words):
            assert PLACEHOLDER.fullmatch(config) or config.isupper() or (ROOT / config).is_file(), f"{place}: {config}"
        if command in LIGHTNING:
            continue
        known = {option for action in parser_of(command)._actions for option in action.option_strings}
        for word in words:
            option = word.partition("=")[0]
            assert not option.startswith("--") or option in known | {"--debug"}, f"{place}: {command} has no {option}"
