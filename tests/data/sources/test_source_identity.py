"""What decides whether a corpus is up to date: content and settings, not times and places."""

import hashlib
import json
import os
import shutil

import pytest

from lit_long.data.sources import Source, describe_inputs
from lit_long.data.sources.identity import BLOCK_BYTES, BLOCKS, identity
from lit_long.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("a")
    (tmp_path / "data" / "sub" / "b.jsonl").write_text('{"text": "b"}\n')
    (tmp_path / "data" / "other.bin").write_bytes(b"1")
    return tmp_path / "data"


def described(path, **options):
    facts = describe_inputs([Source(path=str(path), **options)])
    assert json.loads(json.dumps(facts)) == facts  # plain values
    return facts


def test_a_copy_elsewhere_with_other_times_is_the_same_input(folder, tmp_path):
    before = described(folder)
    assert [file[:2] for file in before[0]["files"]] == [["a.txt", 1], ["sub/b.jsonl", 14]]
    shutil.copytree(folder, tmp_path / "elsewhere" / "data")
    os.utime(tmp_path / "elsewhere/data/a.txt", (1, 1))
    assert described(tmp_path / "elsewhere" / "data") == before
    assert str(tmp_path) not in json.dumps(before)


@pytest.mark.parametrize("kind", ["files", "repositories", "hub"])
def test_every_change_of_the_content_is_another_input(folder, kind):
    def facts():
        if kind == "hub":
            return describe_inputs([Source(hub=str(folder))])
        return described(folder, kind=kind, **({} if kind == "files" else {"file_suffixes": (".jsonl", ".txt")}))

    seen = [facts()]
    assert facts() == seen[0]
    file = folder / "sub" / "b.jsonl"
    for change in (
        lambda: file.write_text('{"text": "c"}\n'),
        lambda: file.write_text('{"text": "cc"}\n'),
        lambda: file.rename(folder / "sub" / "c.jsonl"),
        lambda: (folder / "sub" / "new.txt").write_text("n"),
    ):
        change()
        seen.append(facts())
    assert len({json.dumps(f) for f in seen}) == len(seen)


@pytest.mark.parametrize(
    "options",
    [{"text_field": "x"}, {"id_field": None}, {"name": "n"}, {"license": "MIT"}, {"kind": "repositories"}],
)
def test_settings_that_change_the_documents_are_part_of_it(folder, options):
    assert described(folder, **options) != described(folder)


def test_settings_of_repositories_are_part_of_theirs_only(folder):
    assert "file_suffixes" not in described(folder)[0]["settings"]
    repositories = [described(folder, kind="repositories", max_file_bytes=n) for n in (5, 50)]
    assert repositories[0] != repositories[1]


def test_files_of_no_known_kind_do_not_count(folder):
    before = described(folder)
    (folder / "other.bin").write_bytes(b"2")
    assert described(folder) == before


def test_large_files_are_sampled_from_first_byte_to_last(tmp_path):
    path = tmp_path / "large"
    small = BLOCKS * BLOCK_BYTES
    with path.open("wb") as file:
        file.truncate(small * 3)
    size, before = identity(path)
    assert size == small * 3
    assert before.startswith("sha256-sample:")
    for place in (0, small * 3 - 1, (small * 3 - BLOCK_BYTES) // 15 * 7 + BLOCK_BYTES // 2):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        changed = identity(path)[1]
        assert changed != before
        before = changed
    with path.open("r+b") as file:
        file.truncate(small)
    assert identity(path)[1].startswith("sha256:")
    assert identity(path)[1] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_dataset_that_is_not_at_hand_is_its_revision():
    (facts,) = describe_inputs([Source(hub="nobody/nothing", revision="v1", subset="s")])
    assert facts["files"] == []
    assert facts["settings"]["revision"] == "v1"  # no network here, so as asked for
    assert facts["settings"]["subset"] == "s"


def test_missing_sources(tmp_path):
    with pytest.raises(UserError, match="no such file or directory"):
        describe_inputs([Source(path=str(tmp_path / "nothing"))])
