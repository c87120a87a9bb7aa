"""Repositories: one document each, files in order under their paths, and a count for every file that is left out."""

import os
import subprocess

import pytest

from lit_long.data.sources import BadRow, Document, Skipped, Source, plan_items
from lit_long.errors import UserError


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "project"
    write(
        folder,
        {
            "src/z.py": "print('z')\n",
            "src/a/deep.py": "deep = 1",
            "src.py": "\ufeffbefore = 'src/'\n",
            "README.md": "# Project — naïve\r\n",
            "Makefile": "all:\n\ttrue\n",
            "src/B.PY": "upper = 1\n",
            "data.json": "{}",
            "logo.png": b"\x89PNG\0",
            "src/__init__.py": "",
            "src/blank.py": " \n\n",
            "src/binary.py": b"a\0b",
            "src/latin.py": b"# caf\xe9\n",
            "src/large.py": "x = 1\n" * 2000,
            ".git/config.py": "no = 1\n",
            "sub/.git/hooks/x.py": "no = 1\n",
        },
    )
    (folder / "link.py").symlink_to("src/z.py")
    (folder / "linked").symlink_to("src")
    return folder


TEXT = """\
# File: Makefile
all:
\ttrue

# File: README.md
# Project — naïve\r

# File: src/B.PY
upper = 1

# File: src/a/deep.py
deep = 1

# File: src/z.py
print('z')

# File: src.py
before = 'src/'
"""
SKIPPED = {
    "binary": 1,
    "empty": 2,
    "larger than max_file_bytes": 1,
    "link or no regular file": 2,
    "not in UTF-8": 1,
    "other ending": 2,
}


def test_one_repository_is_one_document(repository, records):
    document, *skipped = records(repository, kind="repository", max_file_bytes=10_000, license="MIT")
    assert document == Document("project", TEXT, str(repository), "MIT")
    assert skipped == [Skipped(str(repository), reason, files) for reason, files in SKIPPED.items()]
    every_file = sum(len(files) for folder, _, files in os.walk(repository) if "/.git" not in folder)
    linked_folder = 1  # os.walk lists it with the directories
    assert TEXT.count("# File: ") + sum(SKIPPED.values()) == every_file + linked_folder


def test_the_folder_named_by_a_dot(repository, records, monkeypatch):
    monkeypatch.chdir(repository)
    assert records(".", kind="repository")[0].id == "project"
    assert Source(path=".", kind="repository").label == "project"


def test_repositories_are_the_folders_of_a_folder(tmp_path, records):
    write(
        tmp_path,
        {"b/x.py": "b\n", "a/x.py": "a\n", "a/y.rs": "y\n", "c/x.bin": b"\0", ".git/x.py": "", "list.txt": "l"},
    )
    found = records(tmp_path, kind="repositories")
    assert found[0] == Skipped(str(tmp_path), "not in a repository", 1)
    assert [(d.id, d.text) for d in found if isinstance(d, Document)] == [
        ("a", "# File: x.py\na\n\n# File: y.rs\ny\n"),
        ("b", "# File: x.py\nb\n"),
    ]
    (bad,) = [r for r in found if isinstance(r, BadRow)]
    assert (bad.kind, bad.place) == ("empty", str(tmp_path / "c"))
    assert found[-1] == Skipped(str(tmp_path / "c"), "other ending", 1)


def test_endings_are_the_users_choice(repository, records):
    document, *_ = records(repository, kind="repository", file_suffixes=("readme.md", ".json"))
    assert document.text == "# File: README.md\n# Project — naïve\r\n\n# File: data.json\n{}\n"


def test_a_repository_over_the_limit_is_not_read(tmp_path, records):
    write(tmp_path / "r", {f"{i}.py": "x" * 400 for i in range(3)})
    bad, *_ = records(tmp_path / "r", kind="repository", max_document_bytes=1000)
    assert (bad.kind, bad.place) == ("too_long", str(tmp_path / "r"))
    assert bad.message.startswith("1,200 bytes")


def test_names_that_are_not_utf8_are_counted(tmp_path, records):
    write(tmp_path / "r", {"a.py": "a\n"})
    with open(os.fsencode(tmp_path / "r") + b"/caf\xe9.py", "w") as file:
        file.write("b\n")
    document, skipped = records(tmp_path / "r", kind="repository")
    assert document.text == "# File: a.py\na\n"
    assert (skipped.reason, skipped.files) == ("name not in UTF-8", 1)


def test_small_repositories_share_an_item(tmp_path):
    write(tmp_path, {f"r{i:02d}/x.py": "x" * 100 for i in range(10)})
    items = list(plan_items([Source(path=str(tmp_path), kind="repositories")], item_bytes=300))
    assert [item.size for item in items] == [300, 300, 300, 100]


def test_a_real_git_repository(tmp_path, records):
    folder = tmp_path / "real"
    folder.mkdir()
    write(folder, {"main.c": "int main(void) { return 0; }\n"})
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    assert records(folder, kind="repository") == [
        Document("real", "# File: main.c\nint main(void) { return 0; }\n", str(folder))
    ]


@pytest.mark.parametrize("kind", ["repository", "repositories"])
def test_places_that_hold_no_repository(tmp_path, kind):
    (tmp_path / "a.py").write_text("a")
    for path, message in (("a.py", "is a file; kind repositor"), ("nothing", "no such directory; kind repositor")):
        with pytest.raises(UserError, match=message):
            plan_items([Source(path=str(tmp_path / path), kind=kind)], item_bytes=1)
    with pytest.raises(UserError, match="so no repository; for a single one give kind: repository"):
        plan_items([Source(path=str(tmp_path), kind="repositories")], item_bytes=1)
