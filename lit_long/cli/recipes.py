"""``lit-long recipes``: what recipes there are, from the comments at their heads. Standard library only.

A file's first sentence is its summary. A recipe has a line ``# size: ... | length: ... | hardware: ...`` after it;
without one a file is an overlay, or under ``data/`` and ``synthesis/`` a configuration of these commands. In a checkout
the recipes are those of the checkout; an installed package brings a copy.
"""

import re
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

from lit_long.cli.command import Command
from lit_long.errors import UserError

KINDS = ("recipe", "overlay", "data", "synthesis")
FACTS = ("size", "length", "hardware")


@dataclass(frozen=True)
class Recipe:
    """One YAML file under ``recipes/``; only those of the kind ``recipe`` have the last three."""

    name: str
    kind: str
    summary: str
    size: str = ""
    length: str = ""
    hardware: str = ""


def folder() -> Path:
    """The recipes of this checkout, or those that were installed.

    Raises:
        UserError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for place in (package.parent / "recipes", package / "recipes"):
        if (place / "quickstart.yaml").is_file():
            return place
    raise UserError("this installation has no recipes; install lit-long from its wheel or run in a checkout")


def find_recipes(place: Path) -> list[Recipe]:
    """All files of a recipes folder, recipes first, each kind by name."""
    found = [_read(path, place) for path in place.rglob("*.yaml") if "assets" not in path.parts]
    return sorted(found, key=lambda r: (KINDS.index(r.kind), r.name))


def _read(path: Path, place: Path) -> Recipe:
    name = path.relative_to(place).as_posix()
    words: list[str] = []
    facts = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment = line.lstrip("# ").strip()
        facts = facts or (comment if comment.startswith("size:") else "")
        if comment.startswith(("lit-long ", "size:")):
            if words:
                break
        else:
            words.append(comment)
    summary = re.split(r"(?<!al)\. ", " ".join(words))[0].removeprefix("Overlay: ").rstrip(".:")
    if facts:
        pairs = dict(part.split(":", 1) for part in facts.split(" | "))
        values = {key.strip(): value.strip() for key, value in pairs.items() if key.strip() in FACTS}
        return Recipe(name, "recipe", summary, **values)
    kind = name.split("/")[0]
    return Recipe(name, kind if kind in ("data", "synthesis") else "overlay", summary)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="show this one, e.g. models/qwen3_8b_128k (.yaml may be left out)")
    parser.add_argument("--copy", metavar="DIR", help="copy all recipes to DIR/recipes, to run and change them there")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def _run(args: Namespace) -> int:
    place = folder()
    recipes = find_recipes(place)
    if args.copy:
        return _copy(place, Path(args.copy) / "recipes")
    if args.name:
        return _show(args.name, place, recipes)
    if args.json:
        import json

        print(json.dumps([asdict(recipe) for recipe in recipes], indent=2))
    else:
        print(_listing(recipes))
    return 0


def _show(name: str, place: Path, recipes: list[Recipe]) -> int:
    wanted = name.removeprefix("recipes/").removesuffix(".yaml") + ".yaml"
    names = [recipe.name for recipe in recipes]
    if wanted not in names:
        import difflib

        close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "lit-long recipes lists them"
        raise UserError(f"no recipe {name!r}; {hint}")
    sys.stdout.write((place / wanted).read_text(encoding="utf-8"))
    return 0


def _copy(place: Path, target: Path) -> int:
    import shutil

    if target.exists():
        raise UserError(f"{target} is there already; choose another --copy DIR, or move it away")
    try:
        shutil.copytree(place, target)
    except OSError as error:
        raise UserError(f"{target}: cannot copy the recipes ({error.strerror or error})") from error
    print(f"wrote: {target}")
    return 0


def _listing(recipes: list[Recipe]) -> str:
    lines: list[str] = []
    rows = [r for r in recipes if r.kind == "recipe"]
    columns = ("name", *FACTS)
    widths = [max(len(column), *(len(getattr(r, column)) for r in rows)) for column in columns]
    lines.append("  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)) + "  summary")
    for r in rows:
        cells = [getattr(r, c).ljust(w) for c, w in zip(columns, widths, strict=True)]
        lines.append("  ".join(cells) + f"  {r.summary}")
    for kind, title in (
        ("overlay", "overlays, laid over a recipe with a further --config:"),
        ("data", "data, for lit-long prepare --config:"),
        ("synthesis", "long instruction data, for lit-long synthesize --config:"),
    ):
        others = [r for r in recipes if r.kind == kind]
        width = max((len(r.name) for r in others), default=0)
        lines += ["", title, *(f"{r.name:<{width}}  {r.summary}" for r in others)]
    lines += ["", "lit-long recipes NAME shows one; --copy DIR copies them all; docs/recipes.md explains them."]
    return "\n".join(lines)


COMMAND = Command(
    name="recipes",
    summary="list the recipes with size, length, hardware; show or copy them",
    add_arguments=_add_arguments,
    run=_run,
)
