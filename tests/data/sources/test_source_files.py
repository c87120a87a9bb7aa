"""Documents from files: order, ids, every format, and an error with its place for everything that is wrong."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from lit_long.data.sources import Skipped, Source, plan_items, read_documents, read_item
from lit_long.data.sources.files import list_files
from lit_long.errors import UserError

TEXTS = ["Es war einmal.\nZeile zwei.\n", "naïve — 日本", "third"]


def lines(*rows):
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def documents_of(path, **options):
    return list(read_documents([Source(path=str(path), **options)]))


def texts_of(path, **options):
    return [document.text for document in documents_of(path, **options)]


def zst(data):
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".jsonl", bytes), (".jsonl.gz", gzip.compress), (".jsonl.zst", zst)],
    ids=["plain", "gz", "zst"],
)
def test_json_lines(tmp_path, suffix, pack):
    path = tmp_path / f"a{suffix}"
    rows = [
        {"id": "one", "text": TEXTS[0], "license": "public domain"},
        {"text": TEXTS[1]},
        {"id": 0, "text": TEXTS[2]},
    ]
    path.write_bytes(pack(lines(*rows[:1]) + b"\n   \n" + lines(*rows[1:])))
    documents = documents_of(path)
    assert [d.text for d in documents] == TEXTS
    assert [d.id for d in documents] == ["one", f"a{suffix}:4", "0"]
    assert [d.place for d in documents] == [f"{path}:1", f"{path}:4", f"{path}:5"]
    assert [d.license for d in documents] == ["public domain", None, None]


@pytest.mark.parametrize("pack", [gzip.compress, zst])
def test_archives_of_several_parts_are_read_to_the_end(tmp_path, pack):
    """`cat a.zst b.zst`, pigz and pzstd make such files."""
    path = tmp_path / ("a.jsonl.zst" if pack is zst else "a.jsonl.gz")
    path.write_bytes(b"".join(pack(lines({"text": text})) for text in TEXTS))
    assert texts_of(path) == TEXTS


def test_large_lines_of_zst_come_whole(tmp_path):
    texts = [f"word {i} " * 60_000 for i in range(3)]  # far beyond every buffer
    (tmp_path / "a.jsonl.zst").write_bytes(zst(lines(*({"text": text} for text in texts))))
    assert texts_of(tmp_path / "a.jsonl.zst") == texts


@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_plain_text_is_one_document(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes("\ufeffa\r\n\r\nb\n".encode())
    (document,) = documents_of(path)
    assert (document.id, document.place) == (path.name, str(path))
    assert document.text == "a\r\n\r\nb\n"  # the byte order mark is no text; line ends are


def test_named_fields(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({"name": "x", "body": "the body", "text": "another"}))
    (document,) = documents_of(path, text_field="body", id_field="name")
    assert (document.id, document.text) == ("x", "the body")


def test_directory_order_does_not_depend_on_creation(tmp_path):
    for name in ("z.txt", "b/2.md", "a.txt", "b/10.jsonl", "b/c/x.txt", "ignored.pdf"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lines({"text": name}) if name.endswith("jsonl") else name.encode())
    names = ["a.txt", "b/10.jsonl", "b/2.md", "b/c/x.txt", "z.txt"]
    assert texts_of(tmp_path) == names
    assert [d.id for d in documents_of(tmp_path)] == ["a.txt", "b/10.jsonl:1", *names[2:]]
    assert [p.relative_to(tmp_path).as_posix() for p in list_files(tmp_path)[0]] == names


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        (lines({"text": "a"}) + b"{nope}\n", ":2", "not valid JSON"),
        (lines({"text": "a"}) + b'{"text": "b"', ":2", "not valid JSON"),
        (lines({"text": "a"}, {"txet": "b", "id": 1}), ":2", "no text in field 'text'; found ['id', 'txet']"),
        (lines({"text": ["a"]}), ":1", "no text in field"),
        (b"[1]\n", ":1", "found list"),
        (b'\n{"text": "caf\xe9"}\n', ":2", "not UTF-8 (byte 13: 0xe9)"),
        (lines({"text": "a"}, {"text": " \n"}), ":2", "an empty document"),
        (lines({"text": "a"}) + b'{"text": "\\ud83d alone"}\n', ":2", "not Unicode text (character 0: '\\ud83d')"),
    ],
)
def test_errors_in_json_lines_name_the_line(tmp_path, content, place, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        documents_of(path)
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [(b"", "an empty document"), (b"caf\xe9", "not UTF-8 (byte 3: 0xe9)")])
def test_errors_in_plain_text_name_the_file(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        documents_of(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("pack", [gzip.compress, zst])
@pytest.mark.parametrize("damage", ["cut short", "garbage", "empty"])
def test_damaged_archives_are_no_end_of_data(tmp_path, pack, damage):
    path = tmp_path / ("a.jsonl.zst" if pack is zst else "a.jsonl.gz")
    packed = pack(lines(*({"text": f"{i} {i * 7919 % 1000}"} for i in range(2000))))
    path.write_bytes({"cut short": packed[: len(packed) // 2], "garbage": b"no archive", "empty": b""}[damage])
    with pytest.raises(UserError, match="cannot be read beyond line") as caught:
        documents_of(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_path_unknown_kind_and_empty_directory(tmp_path):
    with pytest.raises(UserError, match="no such file or directory"):
        list_files(tmp_path / "nothing.txt")
    (tmp_path / "a.pdf").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a\.pdf: unknown kind of file; known are \.txt, \.md, \.jsonl"):
        list_files(tmp_path / "a.pdf")
    with pytest.raises(UserError, match="no document in this directory"):
        list_files(tmp_path)


def test_files_that_cannot_be_read(tmp_path, records):
    (tmp_path / "a.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl: a link to gone\.jsonl, which is not there"):
        records(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl: a broken link or no regular file"):
        records(tmp_path)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(UserError, match=r"a\.jsonl: no document in this directory"):
        records(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl" / "b.txt").write_text("a directory may have any name")
    assert [d.id for d in records(tmp_path)] == ["a.jsonl/b.txt"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_files_that_go_away_while_planning(tmp_path, name):
    """As a file whose disk fails: found in the directory, then not readable."""
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    whole = {"a.txt": b"a", "a.jsonl": lines({"text": "a"}), "a.parquet": (tmp_path / "a.parquet").read_bytes()}
    whole |= {"a.jsonl.gz": gzip.compress(whole["a.jsonl"]), "a.jsonl.zst": zst(whole["a.jsonl"])}
    (tmp_path / "a.parquet").unlink()
    (tmp_path / name).write_bytes(whole[name])
    sources = [Source(path=str(tmp_path))]
    items = plan_items(sources, item_bytes=1)
    (tmp_path / name).rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"cannot be read"):
        list(items)
    (tmp_path / "away").rename(tmp_path / name)
    (item,) = plan_items(sources, item_bytes=1)
    (tmp_path / name).rename(tmp_path / "away")
    if name.endswith((".gz", ".zst")):  # the item carries the lines
        assert [d.text for d in read_item(item, sources)] == ["a"]
    else:
        with pytest.raises(UserError, match=r"cannot be read"):
            list(read_item(item, sources))


def test_links_to_directories_are_followed_but_not_in_a_circle(tmp_path, records):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.txt").write_text("a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "disk")
    assert [(d.id, d.text) for d in records(tmp_path / "data")] == [("linked/a.txt", "a")]
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "data")
    with pytest.raises(UserError, match="a link back to a directory above it"):
        records(tmp_path / "data")


def test_names_that_are_not_utf8(tmp_path, records):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write("a")
    with pytest.raises(UserError, match=r"the file name 'caf\\udce9\.txt' is not in UTF-8; rename it"):
        records(tmp_path)


def test_other_files_of_a_directory_are_counted(tmp_path, records):
    for name in ("a.txt", "b.pdf", "c/d.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a")
    skipped, document = records(tmp_path, item_bytes=1)
    assert (skipped, document.id) == (Skipped(str(tmp_path), "unknown kind of file", 2), "a.txt")


def test_ids_and_licenses(tmp_path, records):
    (tmp_path / "a.jsonl").write_bytes(lines({"id": "x", "text": "a", "license": "MIT"}, {"id": 1.5, "text": "b"}))
    assert [d.id for d in records(tmp_path / "a.jsonl", id_field=None)] == ["a.jsonl:1", "a.jsonl:2"]
    found = records(tmp_path / "a.jsonl", license="CC0")
    assert [(d.id, d.license) for d in found] == [("x", "MIT"), ("1.5", "CC0")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of path and hub; found neither"),
        ({"path": "a", "hub": "b"}, "exactly one of path and hub; found both"),
        ({"path": "a", "kind": "repo"}, "kind 'repo'; give auto, files, repository or repositories"),
        ({"hub": "a", "kind": "repository"}, "kind 'repository' is for a path"),
        ({"path": "a", "subset": "b", "max_documents": 3}, "subset, max_documents is for hub, not for a path"),
        ({"path": "a", "split": "test"}, "split is for hub, not for a path"),
        ({"path": "a", "max_file_bytes": 3}, "max_file_bytes is for kind: repository or repositories, found auto"),
        ({"hub": "a", "file_suffixes": (".py",)}, "file_suffixes is for kind: repository or repositories"),
        ({"hub": "a", "max_documents": 0}, "max_documents is 0; give 1 or more"),
    ],
)
def test_a_source_that_contradicts_itself(options, message):
    with pytest.raises(UserError, match=message):
        Source(**options)
