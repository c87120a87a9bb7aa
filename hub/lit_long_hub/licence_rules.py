"""What licences ask of a derived release: its name, its Notice file, its words on the card.

From the Llama Community Licences (section 1.b.i: "Built with Llama", the name begins with "Llama", a Notice file with
one given line) and the Gemma Terms of Use (section 3.1). Llama 2's licence asks for the Notice only.
"""

from collections.abc import Mapping
from pathlib import Path

_META = "Copyright © Meta Platforms, Inc. All Rights Reserved."
NOTICES = {
    "llama2": (
        "Llama 2 is licensed under the LLAMA 2 Community License, "
        "Copyright (c) Meta Platforms, Inc. All Rights Reserved."
    ),
    "llama3": f"Meta Llama 3 is licensed under the Meta Llama 3 Community License, {_META}",
    "llama3.1": f"Llama 3.1 is licensed under the Llama 3.1 Community License, {_META}",
    "llama3.2": f"Llama 3.2 is licensed under the Llama 3.2 Community License, {_META}",
    "llama3.3": f"Llama 3.3 is licensed under the Llama 3.3 Community License, {_META}",
    "llama4": f"Llama 4 is licensed under the Llama 4 Community License, {_META}",
    "gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
}
"""Licence id to the line that the Notice file must hold."""


def notice_text(licence: str | None, files: list[Path]) -> str | None:
    """The text of a NOTICE file that the licence asks for and none of ``files`` is; None where none is needed.

    Args:
        licence: The release's licence id.
        files: Legal files that are copied from the base model.
    """
    line = NOTICES.get(licence or "")
    if line is None or any(path.name.lower().startswith("notice") for path in files):
        return None
    return f"{line}\n"


def licence_problems(repo_id: str, head: Mapping[str, object], folder: Path) -> list[str]:
    """What a licence asks of a release and the release lacks.

    Args:
        repo_id: Where it is to be published.
        head: The card's front matter.
        folder: The release.

    Returns:
        One text for each duty that is not met, with what to do.
    """
    licence = str(head.get("license") or "")
    problems = []
    line = NOTICES.get(licence)
    if line is not None:
        notices = [path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith("notice")]
        stated = {_plain(text) for path in notices for text in path.read_text(errors="replace").splitlines()}
        if _plain(line) not in stated:
            problems.append(f"the licence {licence} asks for a file NOTICE with the line: {line}")
    if licence.startswith("llama") and licence != "llama2":
        if not repo_id.rpartition("/")[2].lower().startswith("llama"):
            problems.append(f"the licence {licence} asks for a name that begins with Llama: {repo_id} does not")
        card = folder / "README.md"
        if card.is_file() and "built with llama" not in card.read_text(errors="replace").lower():
            problems.append(f"the licence {licence} asks for the words 'Built with Llama' on the card")
    return problems


def _plain(line: str) -> str:
    return " ".join(line.replace("©", "(c)").lower().split()).rstrip(".")
