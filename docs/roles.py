"""Docstrings name things as Sphinx does (:func:`~lit_long.rope.scale_rope`); the site shows the name (mkdocs.yml)."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Before a docstring is read for its sections."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Replace roles by the last part of the name, as code; a module keeps its whole name."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_shown, obj.docstring.value)


def _shown(match: re.Match[str]) -> str:
    name = match[1]
    return f"`{name if match[0].startswith(':mod:') else name.rpartition('.')[2]}`"
