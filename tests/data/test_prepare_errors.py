"""What can go wrong while a corpus is made: bad rows, doubled ids, a full disk, a killed worker, Ctrl-C."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prepare_inputs import config_of, content, left, pieces, write

import lit_long.data.prepare.document_ids as document_ids_module
import lit_long.data.prepare.item_writer as item_writer_module
import lit_long.data.prepare.pool as pool_module
from lit_long.data import TokenCorpus
from lit_long.data.prepare import Source, prepare
from lit_long.data.prepare.document_ids import IdHashes
from lit_long.errors import UserError

BAD = ['{"id": "1", "text": "cut', '{"id": "2"}', '{"id": "3", "text": " "}', '{"id": "4", "text": "a\\u0000b"}']


@pytest.fixture(scope="module")
def documents(books):
    return pieces(books)


@pytest.fixture
def source_with_bad_rows(documents, tmp_path):
    """Bad rows in lines 5, 10, 15 and 20, so in several items."""
    lines = [json.dumps({"id": id_, "text": text}) for id_, text in documents[:20]]
    for number, bad in enumerate(BAD):
        lines.insert(5 * number + 4, bad)
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    return Source(path=str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_rows_up_to_the_limit_are_left_out_and_named(
    source_with_bad_rows, documents, tokenizer_dir, tmp_path, processes
):
    config = config_of(
        tmp_path, tokenizer_dir, source_with_bad_rows, item_bytes=2_000, processes=processes, max_bad_rows=4
    )
    result = prepare(config)
    assert result.bad_rows == {"empty": 1, "invalid_json": 1, "missing_text": 1, "nul": 1}
    corpus = TokenCorpus(tmp_path / "out")
    assert [corpus.document_id(i) for i in range(corpus.documents)] == [id_ for id_, _ in documents[:20]]
    assert corpus.info["bad_rows"] == result.bad_rows
    rows = [json.loads(line) for line in (tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()]
    assert [row["place"] for row in rows] == [f"{tmp_path}/a.jsonl:{line}" for line in (5, 10, 15, 20)]
    assert [row["kind"] for row in rows] == ["invalid_json", "missing_text", "empty", "nul"]
    again = prepare(config)
    assert (again.reused, again.bad_rows) == (True, result.bad_rows)
    with pytest.raises(UserError, match=r"a\.jsonl:5: not valid JSON"):  # fewer allowed than the corpus has
        prepare(replace(config, max_bad_rows=3))


@pytest.mark.parametrize("limit", [0, 3])
def test_one_bad_row_more_than_the_limit(source_with_bad_rows, tokenizer_dir, tmp_path, limit):
    config = config_of(tmp_path, tokenizer_dir, source_with_bad_rows, item_bytes=2_000, processes=1, max_bad_rows=limit)
    with pytest.raises(UserError) as caught:
        prepare(config)
    message = str(caught.value)
    for line in (5, 10, 15, 20):
        assert (f"a.jsonl:{line}: " in message) == (line <= 5 * (limit + 1))
    assert f"{limit + 1} bad row(s) found so far" in message
    assert f"{limit} allowed (max_bad_rows)" in message
    assert "--max-bad-rows N" in message
    assert left(tmp_path) == ["a.jsonl", "out.unfinished"]


def test_numbers_out_of_range(tmp_path, tokenizer_dir):
    for key, value in (("max_bad_rows", -1), ("processes", 0), ("max_document_bytes", 0), ("item_bytes", 0)):
        with pytest.raises(UserError, match=f"{key} is {value}; it must be at least {value + 1}"):
            config_of(tmp_path, tokenizer_dir, Source(path="x"), **{key: value})


@pytest.mark.parametrize("processes", [1, 2])
def test_doubled_ids_in_different_items(documents, tokenizer_dir, tmp_path, processes):
    rows = [*documents[:20], (documents[2][0], "another text")]
    source = write(tmp_path / "a.jsonl", *rows)
    config = config_of(tmp_path, tokenizer_dir, source, item_bytes=2_000, processes=processes)
    with pytest.raises(UserError) as caught:
        prepare(config)
    assert f"a.jsonl:21: the document id {documents[2][0]!r} was used before, at {tmp_path}/a.jsonl:3;" in str(
        caught.value
    )
    assert "id_field: null" in str(caught.value)
    assert left(tmp_path) == ["a.jsonl"]  # the same inputs would always end like this: nothing to keep
    prepare(replace(config, sources=(replace(source, id_field=None),)))
    assert TokenCorpus(tmp_path / "out").documents == 21


def test_equal_hashes_of_different_ids_are_no_doubled_ids(documents, tokenizer_dir, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", *documents[:20])
    monkeypatch.setattr(item_writer_module, "id_hash", lambda id_: len(id_))
    looked, own = [], document_ids_module.MappedShard
    monkeypatch.setattr(document_ids_module, "MappedShard", lambda file: looked.append(file) or own(file))
    prepare(config_of(tmp_path, tokenizer_dir, source, item_bytes=2_000, processes=1, held_out=(documents[3][0],)))
    assert looked
    assert TokenCorpus(tmp_path / "out").documents == 19


def test_id_hashes_against_a_set():
    draw, hashes, seen = np.random.default_rng(0), IdHashes(), set()
    for size in (0, 1, 5, 300, 2, 2, 40, 1, 1_000, 7):
        block = draw.integers(0, 5_000, size=size).astype(np.uint64)
        expected = {int(h) for i, h in enumerate(block) if int(h) in seen or h in block[:i]}
        assert set(hashes.add(block).tolist()) == expected
        seen |= set(block.tolist())
    assert len(hashes._levels) < 6  # few arrays to look into, however many blocks


def test_a_full_disk(documents, tokenizer_dir, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", *documents[:40])
    config = config_of(tmp_path, tokenizer_dir, source, item_bytes=2_000, processes=1)
    own, closed = item_writer_module.ShardWriter.close, []

    def full(writer):
        if len(closed) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        closed.append(writer)
        return own(writer)

    with monkeypatch.context() as patch:
        patch.setattr(item_writer_module.ShardWriter, "close", full)
        with pytest.raises(UserError, match=r"No space left on device: 0 MB written, [0-9,]+ MB free") as caught:
            prepare(config)
    assert "what is left needs about 0 MB. What is done is kept: make room" in str(caught.value)
    assert not list((tmp_path / "out.unfinished").rglob("*.tmp"))
    assert prepare(config).found_items == 3


def test_a_worker_that_may_not_write(documents, tokenizer_dir, tmp_path):
    """The file size limit of the system, which reaches the worker processes, stands in for a full disk."""
    source = write(
        tmp_path / "a.jsonl", ("small", "one"), *documents[:4], ("large", 40 * " ".join(t for _, t in documents))
    )
    config = config_of(tmp_path, tokenizer_dir, source, item_bytes=1_000, processes=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(UserError, match="File too large: 0 MB written"):
            prepare(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert left(tmp_path) == ["a.jsonl", "out.unfinished"]
    assert prepare(config).found_items > 0


def test_a_worker_that_is_killed(documents, tokenizer_dir, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", *documents)
    config = config_of(tmp_path, tokenizer_dir, source, item_bytes=4_000, processes=2)
    own = pool_module._Worker.give

    def give(worker, item):
        own(worker, item)
        if item.number == 4:
            worker._process.kill()  # as the system does when memory runs out

    monkeypatch.setattr(pool_module._Worker, "give", give)
    with pytest.raises(UserError, match=r"a worker process was killed \(signal 9\) at item 4, .*memory ran out"):
        prepare(config)
    monkeypatch.undo()
    assert prepare(config).found_items > 0


def test_an_error_of_our_own_in_a_worker_is_not_swallowed(documents, tokenizer_dir, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", *documents[:20])
    monkeypatch.setattr(pool_module, "_START", "import lit_long.data.prepare.worker as w; w.write_item = None; w.start")
    with pytest.raises(RuntimeError, match=r"(?s)in a worker process:.*TypeError"):
        prepare(config_of(tmp_path, tokenizer_dir, source, item_bytes=1_000, processes=2))


def test_a_source_that_changes_while_it_is_read(documents, tokenizer_dir, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", *documents[:4])
    own = item_writer_module.write_item

    def change(item, *args):
        own(item, *args)
        write(tmp_path / "a.jsonl", *documents[:5])

    monkeypatch.setattr(pool_module, "write_item", change)
    with pytest.raises(UserError, match="changed while they were read"):
        prepare(config_of(tmp_path, tokenizer_dir, source))
    assert left(tmp_path) == ["a.jsonl"]


def test_ctrl_c_stops_quickly_and_says_how_to_go_on(books, tokenizer_dir, tmp_path):
    documents = [(f"{copy}-{id_}", text) for copy in range(60) for id_, text in pieces(books, 3_000)]
    source = write(tmp_path / "a.jsonl", *documents)
    settings = {"tokenizer": tokenizer_dir, "sources": [{"path": source.path}], "item_bytes": 20_000, "processes": 2}
    (tmp_path / "d.yaml").write_text(json.dumps(settings | {"output": str(tmp_path / "out")}))
    script = "import sys; from lit_long.entry import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "prepare", "--config", str(tmp_path / "d.yaml")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell's background jobs ignore Ctrl-C, and so would whatever they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    items = tmp_path / "out.unfinished" / "items"
    while len(list(items.glob("*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group gets it
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("what is done is kept; the same command goes on from there\nlit-long: stopped\n")
    assert "Traceback" not in errors
    assert not list((tmp_path / "out.unfinished").glob("job.*"))
    assert Path(tmp_path / "out.unfinished" / "work.json").is_file()


def test_left_out_files_are_counted(tokenizer_dir, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("some text")
    for number in range(3):
        (folder / f"{number}.bin").write_bytes(b"\0")
    result = prepare(config_of(tmp_path, tokenizer_dir, Source(path=str(folder))))
    assert result.skipped_files == {"unknown kind of file": 3}
    assert TokenCorpus(tmp_path / "out").info["skipped_files"] == result.skipped_files
    assert prepare(config_of(tmp_path, tokenizer_dir, Source(path=str(folder)))).skipped_files == result.skipped_files
    assert "bad_rows.jsonl" not in content(tmp_path / "out")
