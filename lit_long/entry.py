"""The console script: standard library only, so that help, version and usage errors answer at once.

LightningCLI costs many seconds of imports that are not ours; it is only loaded for fit, validate, test and predict.
Exit codes: 0 success, 2 a mistake in usage or input (one message, no traceback unless ``--debug``), 1 anything else.
"""

import argparse
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version

from lit_long import __version__
from lit_long.cli.command import Command
from lit_long.errors import UserError

LIGHTNING = {
    "fit": "train a model: lit-long fit --config recipes/quickstart.yaml",
    "validate": "held-out loss of a model or checkpoint",
    "test": "Lightning's test loop, for DataModules that have one",
    "predict": "Lightning's predict loop, for DataModules that have one",
}
OWN = {
    "recipes": "lit_long.cli.recipes:COMMAND",
    "prepare": "lit_long.cli.prepare:COMMAND",
    "tokenizer-report": "lit_long.cli.tokenizer_report:COMMAND",
    "retrieve": "lit_long.cli.retrieve:COMMAND",
    "view": "lit_long.cli.view:COMMAND",
    "rope": "lit_long.cli.rope:COMMAND",
    "plan": "lit_long.cli.plan:COMMAND",
    "check": "lit_long.cli.check:COMMAND",
    "evaluate": "lit_long.cli.evaluate:COMMAND",
    "benchmark": "lit_long.cli.benchmark:COMMAND",
    "answers": "lit_long.cli.answers:COMMAND",
    "preference": "lit_long.cli.preference:COMMAND",
    "synthesize": "lit_long.cli.synthesize:COMMAND",
}
VERSIONS = ("lightning", "torch", "transformers", "peft", "datasets", "huggingface-hub", "flash-attn", "liger-kernel")


def main(argv: list[str] | None = None) -> int:
    """Run ``lit-long`` with ``argv`` (default: the command line) and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    try:
        return _dispatch(args)
    except UserError as error:
        if debug:
            raise
        print(f"lit-long: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stdout = None  # or Python complains again when it flushes at exit
        return 0
    except KeyboardInterrupt:
        print("lit-long: stopped", file=sys.stderr)
        return 130


def _dispatch(args: list[str]) -> int:
    word = args[0] if args else "--help"
    if word in ("-h", "--help"):
        print(_help())
        return 0
    if word in ("-V", "--version"):
        print(_versions())
        return 0
    if word in LIGHTNING:
        from lit_long.cli.fit import run

        return run(args)
    commands = _commands()
    if word not in commands:
        import difflib

        close = difflib.get_close_matches(word, [*LIGHTNING, *commands], n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands: {', '.join([*LIGHTNING, *commands])}"
        raise UserError(f"no command {word!r}; {hint}")
    command = _load(commands[word])
    parser = argparse.ArgumentParser(
        prog=f"lit-long {word}", description=command.summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    command.add_arguments(parser)
    return command.run(parser.parse_args(args[1:]))


def _commands() -> dict[str, str]:
    """Own commands and those of other packages, name -> module:object."""
    return OWN | {point.name: point.value for point in entry_points(group="lit_long.commands")}


def _load(target: str) -> Command:
    module, _, name = target.partition(":")
    command: Command = getattr(import_module(module), name)
    return command


def _help() -> str:
    rows = LIGHTNING | {name: _load(target).summary for name, target in _commands().items()}
    width = max(map(len, rows))
    lines = ["usage: lit-long COMMAND [OPTIONS]", "", "Teach language models to read long documents.", "", "commands:"]
    lines += [f"  {name:<{width}}  {summary}" for name, summary in rows.items()]
    lines += ["", "lit-long COMMAND --help explains a command; --version lists versions; --debug shows tracebacks."]
    return "\n".join(lines)


def _versions() -> str:
    lines = [f"lit-long {__version__}"]
    for name in VERSIONS:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} not installed")
    return "\n".join([*lines, f"python {sys.version.split()[0]}"])


if __name__ == "__main__":
    sys.exit(main())
