"""Cleaning, on real books with copies, near copies, another language and noise among them."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import pytest
import zstandard
from cleaned_texts import GERMAN, GIBBERISH, LENGTH, edited, real_books, similarity, write_jsonl

from lit_long.data.cleaning import CleanConfig, NearDuplicates, clean
from lit_long.data.sources import Source
from lit_long.errors import UserError

BOOKS = Path(__file__).parents[3] / "recipes/assets/quickstart/books.jsonl.zst"
ALL = CleanConfig(
    exact_duplicates=True, near_duplicates=NearDuplicates(), languages=("en",), quality=("gopher_quality",)
)
DROPPED = {
    "copy": ("exact_duplicates", "whole"),
    "copy of copy": ("exact_duplicates", "whole"),
    "near": ("near_duplicates", "begin 1"),
    "german": ("languages: de", None),
}


@pytest.fixture(scope="module")
def rows():
    books = real_books(BOOKS, 4)
    begin = [
        {"id": f"begin {i}", "text": book["text"][:LENGTH], "license": "public domain"}
        for i, book in enumerate(books[1:], 1)
    ]
    whole = {"id": "whole", "text": books[0]["text"]}
    return [
        begin[0],
        whole,
        {"id": "copy", "text": whole["text"]},
        {"id": "german", "text": GERMAN},
        begin[1],
        {"id": "near", "text": edited(begin[0]["text"], 0.01)},
        {"id": "gibberish", "text": GIBBERISH},
        {"id": "copy of copy", "text": whole["text"]},
        begin[2],
    ]


@pytest.fixture(scope="module")
def sources(rows, tmp_path_factory):
    """Two sources, so that a copy may stand in another one than the first."""
    folder = tmp_path_factory.mktemp("raw")
    one, two = write_jsonl(folder / "one.jsonl", rows[:5]), write_jsonl(folder / "two.jsonl", rows[5:])
    return Source(path=str(one), name="first"), Source(path=str(two), license="CC0-1.0")


@pytest.fixture(scope="module")
def done(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cleaned") / "c"
    kept, report = clean(sources, ALL, folder)
    return folder, kept, report


def documents(kept):
    found = []
    for source in kept:
        for file in sorted(Path(source.path).iterdir()):
            with file.open("rb") as packed:
                text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8")
                found += [json.loads(line) for line in text]
    return found


def excluded(folder):
    return [json.loads(line) for line in (folder / "excluded.jsonl").read_text().splitlines()]


def tree(folder):
    """Everything that a finished cleaning says, but datatrove's logs."""
    files = [folder / "report.json", folder / "excluded.jsonl", *sorted((folder / "kept").rglob("*.zst"))]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_keeps_the_right_documents_unchanged_and_in_order(done, rows):
    _, kept, _ = done
    expected = [row for row in rows if row["id"] not in DROPPED and row["id"] != "gibberish"]
    assert [row["id"] for row in documents(kept)] == [row["id"] for row in expected]
    assert [row["text"] for row in documents(kept)] == [row["text"] for row in expected]


def test_names_every_document_that_was_left_out(done, sources):
    folder, _, report = done
    found = {row["id"]: row for row in excluded(folder)}
    assert set(found) == {*DROPPED, "gibberish"}
    for id_, (reason, of) in DROPPED.items():
        assert (found[id_]["reason"], found[id_]["duplicate_of"]) == (reason, of)
    assert found["copy of copy"]["place"] == f"{sources[1].path}:3"
    assert found["copy of copy"]["source"] == "two.jsonl"
    assert (report["documents"], report["kept"], sum(report["excluded"].values())) == (9, 4, 5)
    assert report["sources"] == [
        {"name": "first", "documents": 5, "kept": 3},
        {"name": "two.jsonl", "documents": 4, "kept": 1},
    ]


def test_sources_keep_their_names_and_licences(done):
    _, kept, _ = done
    assert [(source.name, source.license) for source in kept] == [("first", None), ("two.jsonl", "CC0-1.0")]
    licences = {row["id"]: row.get("license") for row in documents(kept)}
    assert licences == {
        "begin 1": "public domain",
        "whole": None,
        "begin 2": "public domain",
        "begin 3": "public domain",
    }


def test_near_duplicates_agree_with_counted_similarity(done, rows):
    """The dropped document is nearly the same as the one it names; no two that stay are alike."""
    _, kept, _ = done
    texts = {row["id"]: row["text"] for row in rows}
    assert similarity(texts["near"], texts["begin 1"]) > 0.85
    assert all(similarity(a["text"], b["text"]) < 0.5 for a, b in combinations(documents(kept), 2))


def test_a_document_with_much_of_its_own_stays(rows, tmp_path):
    """Half of the words replaced is no near duplicate."""
    other = edited(rows[0]["text"], 0.5)
    assert similarity(other, rows[0]["text"]) < 0.3
    path = write_jsonl(tmp_path / "a.jsonl", [rows[0], {"id": "other", "text": other}])
    config = CleanConfig(near_duplicates=NearDuplicates())
    _, report = clean([Source(path=str(path))], config, tmp_path / "c")
    assert report["kept"] == 2


def test_a_whole_book_is_not_too_long(rows):
    """Gopher's own limit would drop it, so the case is real."""
    from datatrove.data import Document
    from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter

    from lit_long.data.cleaning.words import UnicodeWords

    whole = rows[1]["text"]
    assert GopherQualityFilter(language=UnicodeWords()).filter(Document(text=whole, id="a")) == (
        False,
        "gopher_long_doc",
    )


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "item_bytes"), [(1, 100_000), (3, 100_000)])
def test_same_result_for_any_number_of_workers_and_items(workers, item_bytes, done, sources, tmp_path):
    kept, report = clean(sources, ALL, tmp_path / "c", workers=workers, item_bytes=item_bytes)
    assert len(list((tmp_path / "c/logs/clean-filter/completions").iterdir())) > 2
    assert documents(kept) == documents(done[1])
    assert {**report, "excluded_file": ""} == {**done[2], "excluded_file": ""}
    key = ("id", "reason", "place")
    assert sorted(tuple(row[k] for k in key) for row in excluded(tmp_path / "c")) == sorted(
        tuple(row[k] for k in key) for row in excluded(done[0])
    )


@pytest.mark.slow
def test_each_rule_alone_drops_only_its_own(rows, sources, tmp_path):
    every = {row["id"] for row in rows}
    for name, config, ids in (
        ("exact", CleanConfig(exact_duplicates=True), {"copy", "copy of copy"}),
        ("language", CleanConfig(languages=("de",)), every - {"german"}),
        ("quality", CleanConfig(quality=("gopher_quality",)), {"gibberish", "german"}),  # its stop words are English
    ):
        clean(sources, config, tmp_path / name)
        assert {row["id"] for row in excluded(tmp_path / name)} == ids, name


SCRIPT = """
import sys
from pathlib import Path
from lit_long.data.cleaning import CleanConfig, NearDuplicates, clean
from lit_long.data.sources import Source
if __name__ == "__main__":
    one, two, folder = sys.argv[1:]
    config = CleanConfig(
        exact_duplicates=True, near_duplicates=NearDuplicates(), languages=("en",), quality=("gopher_quality",)
    )
    sources = Source(path=one, name="first"), Source(path=two, license="CC0-1.0")
    clean(sources, config, folder, workers=2, item_bytes=100_000)
"""


@pytest.mark.slow
def test_goes_on_after_kill_9(sources, tmp_path):
    """Killed in three stages, the end is the same to the last byte, and finished tasks are not done again."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    command = [sys.executable, str(script), sources[0].path, sources[1].path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert subprocess.run([*command, str(straight)], env=environment).returncode == 0
    first = broken / "logs/clean-filter/completions/00000"
    written = None
    logs = broken / "logs"
    for mark in (first, logs / "clean-exact-drop/completions/00001", logs / "clean-near-pairs/completions/00003"):
        process = subprocess.Popen([*command, str(broken)], env=environment)
        while not mark.is_file():
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        written = written or first.stat().st_mtime_ns
        assert not (broken / "report.json").exists()
    assert subprocess.run([*command, str(broken)], env=environment).returncode == 0
    assert first.stat().st_mtime_ns == written
    assert tree(broken) == tree(straight)
    assert {p.name for p in broken.iterdir()} == {
        "kept", "logs", "lock", "excluded.jsonl", "report.json", "settings.json"
    }  # fmt: skip


def test_a_finished_cleaning_is_not_repeated(done, sources):
    folder, kept, report = done
    before = tree(folder)
    assert clean(sources, ALL, folder) == (kept, report)
    assert tree(folder) == before


def test_refuses_a_folder_of_other_settings_or_inputs(done, sources, tmp_path):
    folder, _, _ = done
    with pytest.raises(UserError, match=r"other sources or settings \(clean differ\)"):
        clean(sources, CleanConfig(exact_duplicates=True), folder)
    with pytest.raises(UserError, match=r"\(inputs differ\)"):
        clean(sources[:1], ALL, folder)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is no cleaning"):
        clean(sources, ALL, tmp_path)


def test_refuses_a_folder_that_another_run_works_in(sources, tmp_path):
    import fcntl

    folder = tmp_path / "c"
    folder.mkdir()
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is cleaning here"):
            clean(sources, ALL, folder)


def test_bad_rows_stay_bad_rows(rows, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [rows[0], {"id": "x", "text": 3}, rows[4], {"id": "y", "text": " "}])
    source, config = Source(path=str(path)), CleanConfig(exact_duplicates=True)
    with pytest.raises(UserError, match=r"a.jsonl:2: no text in field 'text'.*0 allowed"):
        clean([source], config, tmp_path / "none")
    with pytest.raises(UserError, match=r"2 bad row\(s\) found so far, 1 allowed"):
        clean([source], config, tmp_path / "one", max_bad_rows=1)
    kept, report = clean([source], config, tmp_path / "two", max_bad_rows=2)
    assert [(row["place"], row["kind"]) for row in report["bad_rows"]] == [
        (f"{path}:2", "missing_text"),
        (f"{path}:4", "empty"),
    ]
    assert (report["documents"], report["kept"], len(documents(kept))) == (2, 2, 2)
    with pytest.raises(UserError, match="1 allowed"):  # finished, but with more than now allowed
        clean([source], config, tmp_path / "two", max_bad_rows=1)


def test_bad_rows_are_counted_over_all_tasks(rows, tmp_path):
    bad = {"id": "x", "text": ""}
    path = write_jsonl(tmp_path / "a.jsonl", [rows[0], bad, rows[4], bad])
    with pytest.raises(UserError, match=r"a.jsonl:2: .*2 bad row\(s\) found so far, 1 allowed"):
        clean(
            [Source(path=str(path))],
            CleanConfig(exact_duplicates=True),
            tmp_path / "c",
            max_bad_rows=1,
            item_bytes=30_000,
        )


@pytest.mark.slow
def test_held_out_documents_are_never_left_out_silently(sources, tmp_path):
    """The protected copy stays instead of the first; a near copy, of which datatrove chooses, is an error."""
    _, _ = clean(sources, CleanConfig(exact_duplicates=True), tmp_path / "exact", must_keep=("copy of copy",))
    assert {(row["id"], row["duplicate_of"]) for row in excluded(tmp_path / "exact")} == {
        ("whole", "copy of copy"),
        ("copy", "copy of copy"),
    }
    with pytest.raises(UserError, match=r"held-out document 'near' .*near_duplicates of 'begin 1'.*hold out 'begin 1'"):
        clean(sources, CleanConfig(near_duplicates=NearDuplicates()), tmp_path / "near", must_keep=("near",))


def test_refuses_to_leave_nothing(sources, tmp_path):
    with pytest.raises(UserError, match=r"no document is left of 9 \(languages: en 7"):
        clean(sources, CleanConfig(languages=("fi",)), tmp_path / "c")
