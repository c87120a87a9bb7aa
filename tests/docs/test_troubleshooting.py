"""docs/troubleshooting.md quotes real messages: each is a piece of an error that lit-long raises."""

import ast
import re
from functools import cache

import pytest

from tests.docs.pages import ROOT, text_of

PAGE = "docs/troubleshooting.md"
QUOTED = re.findall(r"^\| `([^`]+)` \|", text_of(PAGE), flags=re.MULTILINE)


def spelled(node):
    """A string in source as one text; what is filled in is a NUL. Parts of a sum are joined."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "\0"
    if isinstance(node, ast.JoinedStr):
        return "".join(spelled(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return spelled(node.left) + spelled(node.right)
    if isinstance(node, ast.IfExp):
        return spelled(node.body) + "\0" + spelled(node.orelse)
    return "\0"


@cache
def messages():
    """Every string of the packages."""
    found = []
    for folder in ("lit_long", "hub/lit_long_hub"):
        for file in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found += [spelled(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.BinOp)]
            found += [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [message for message in found if isinstance(message, str) and len(message) > 12]


def test_there_are_many():
    assert len(QUOTED) > 60
    assert len(QUOTED) == len(set(QUOTED))


@pytest.mark.parametrize("quoted", QUOTED)
def test_message_is_real(quoted):
    pattern = ".*?".join(re.escape(part) for part in re.split(r"\.\.\.", quoted) if part)
    assert any(re.search(pattern, message, re.DOTALL) for message in messages()), quoted
