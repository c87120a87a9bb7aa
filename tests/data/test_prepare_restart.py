"""A run that ends at any moment, and the same command again: nothing twice, nothing lost, the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from prepare_inputs import config_of, content, left, pieces, write

import lit_long.data.prepare.item_writer as item_writer_module
from lit_long.data.prepare import finish, prepare, tokenize_items
from lit_long.data.prepare.lock import FolderLock
from lit_long.errors import UserError


@pytest.fixture(scope="module")
def documents(books):
    return pieces(books)


@pytest.mark.slow
def test_stopped_before_or_after_any_file_appears(documents, tokenizer_dir, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", *documents[:8], ("bad", ""))
    config = config_of(
        tmp_path, tokenizer_dir, source, item_bytes=4_000, processes=1, held_out=(documents[4][0],), max_bad_rows=1
    )
    straight = replace(config, output=str(tmp_path / "straight"))
    own, moves = os.replace, []

    def stop_at(limit, after):
        moves.clear()

        def move(*args):
            if len(moves) == limit and not after:
                raise KeyboardInterrupt
            own(*args)
            moves.append(args)
            if len(moves) > limit:
                raise KeyboardInterrupt

        return move

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop_at(1_000, False))
        prepare(straight)
    total, expected = len(moves), content(tmp_path / "straight")
    assert total > 15
    for limit in range(total):
        for after in (False, True):
            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", stop_at(limit, after))
                with pytest.raises(KeyboardInterrupt):
                    prepare(config)
            prepare(config)
            assert content(tmp_path / "out") == expected, (limit, after)
            assert left(tmp_path) == ["a.jsonl", "out", "straight"]
            for file in sorted((tmp_path / "out").rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            (tmp_path / "out").rmdir()


def command(tmp_path, *more):
    script = "import sys; from lit_long.entry import main; sys.exit(main())"
    return [sys.executable, "-c", script, "prepare", "--config", str(tmp_path / "d.yaml"), *more]


def children(pid):
    """Processes that ``pid`` started, by Linux' own account."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="looks at processes through /proc")
def test_killed_at_random_moments(books, tokenizer_dir, tmp_path):
    documents = [(f"{copy}-{id_}", text) for copy in range(24) for id_, text in pieces(books, 3_000)]
    source = write(tmp_path / "a.jsonl", *documents)
    settings = {"item_bytes": 20_000, "processes": 2, "held_out": [documents[7][0]], "name": "corpus"}
    about = {"tokenizer": tokenizer_dir, "sources": [{"path": source.path}], "output": str(tmp_path / "out")}
    (tmp_path / "d.yaml").write_text(json.dumps(about | settings))
    items = tmp_path / "out.unfinished" / "items"
    draw, done = random.Random(0), 0
    for _ in range(3):
        process = subprocess.Popen(command(tmp_path), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        goal = done + draw.randint(1, 8)
        while len(list(items.glob("*.json"))) < goal:
            assert process.poll() is None, "the work ended before it could be killed"
            time.sleep(0.002)
        time.sleep(draw.random() * 0.05)
        workers = children(process.pid)
        assert workers, "the work ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 20
        while any(running(worker) for worker in workers):  # they must not outlive it
            assert time.monotonic() < end
            time.sleep(0.01)
        done = len(list(items.glob("*.json")))
    again = subprocess.run(command(tmp_path, "--json"), capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["found_items"] == done
    assert f"going on: {done} items were done before" in again.stderr
    prepare(config_of(tmp_path, tokenizer_dir, source, output="straight", **settings | {"processes": 1}))
    assert content(tmp_path / "out") == content(tmp_path / "straight")
    assert left(tmp_path) == ["a.jsonl", "d.yaml", "out", "straight"]


def test_items_that_are_done_are_not_done_again(documents, tokenizer_dir, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", *documents[:20])
    config = config_of(tmp_path, tokenizer_dir, source, item_bytes=2_000, processes=1)
    tokenize_items(config, rank=0, world_size=2)
    done = [int(file.stem) for file in (tmp_path / "out.unfinished" / "items").glob("*.json")]
    written, own = [], item_writer_module.write_item
    monkeypatch.setattr(
        "lit_long.data.prepare.pool.write_item", lambda item, *args: written.append(item.number) or own(item, *args)
    )
    result = prepare(config)
    assert result.found_items == len(done) == 4
    assert sorted(done + written) == list(range(len(done) + len(written)))


def test_unfinished_work_of_something_else_is_not_gone_on_with(documents, tokenizer_dir, tmp_path):
    source = write(tmp_path / "a.jsonl", *documents[:20])
    config = config_of(tmp_path, tokenizer_dir, source, item_bytes=2_000, processes=1)
    tokenize_items(config, rank=0, world_size=2)
    for other, difference in (
        (replace(config, held_out=(documents[0][0],)), r'held_out was \[\], is \["'),
        (replace(config, item_bytes=3_000), "item bytes was 2000, is 3000"),
        (replace(config, sources=(replace(source, id_field=None),)), "source 'a.jsonl': id_field was \"id\", is null"),
    ):
        for run in (prepare, finish, lambda other: tokenize_items(other, rank=1, world_size=2)):
            with pytest.raises(UserError, match=difference) as caught:
                run(other)
            assert "holds unfinished work of other inputs or settings" in str(caught.value)
            assert "--discard-unfinished" in str(caught.value)
    write(tmp_path / "a.jsonl", *documents[:19])
    with pytest.raises(UserError, match=r"source 'a.jsonl': a.jsonl changed"):
        prepare(config)
    assert prepare(config, discard_unfinished=True).found_items == 0
    assert left(tmp_path) == ["a.jsonl", "out"]


def test_more_bad_rows_may_be_allowed_when_work_goes_on(documents, tokenizer_dir, tmp_path):
    source = write(tmp_path / "a.jsonl", *documents[:8], ("x", ""), ("y", " "))
    config = config_of(tmp_path, tokenizer_dir, source, item_bytes=2_000, processes=1)
    with pytest.raises(UserError, match="an empty document"):
        prepare(config)
    result = prepare(replace(config, max_bad_rows=2))
    assert result.found_items > 0
    assert result.bad_rows == {"empty": 2}


def test_two_runs_on_one_output(documents, tokenizer_dir, tmp_path):
    source = write(tmp_path / "a.jsonl", *documents[:4])
    config = config_of(tmp_path, tokenizer_dir, source, processes=1)
    folder = tmp_path / "out.unfinished"
    folder.mkdir()
    with FolderLock(folder):
        for run in (prepare, finish, lambda config: tokenize_items(config, rank=0, world_size=2)):
            with pytest.raises(UserError, match=rf"another run is at work here \(process {os.getpid()} on .+ since "):
                run(config)
    with FolderLock(folder, rank=1, world_size=2):
        for run in (prepare, finish):
            with pytest.raises(UserError, match=rf"another run is at work here \(rank-1-of-2: process {os.getpid()}"):
                run(config)
        with pytest.raises(UserError, match=r"another run is at work here \(rank-1-of-2"):
            tokenize_items(config, rank=1, world_size=2)
        tokenize_items(config, rank=0, world_size=2)
    assert prepare(config).found_items == 1


def test_the_lock_ends_with_its_process(tmp_path):
    script = "import time; from pathlib import Path; from lit_long.data.prepare.lock import FolderLock\n"
    script += f"with FolderLock(Path({str(tmp_path)!r})): print('locked', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(UserError, match=rf"process {process.pid} on "):
        FolderLock(tmp_path).__enter__()
    process.kill()
    process.wait()
    process.stdout.close()
    with FolderLock(tmp_path):
        pass


def test_a_corpus_in_its_place_with_work_left_beside_it(documents, tokenizer_dir, tmp_path, monkeypatch):
    config = config_of(tmp_path, tokenizer_dir, write(tmp_path / "a.jsonl", *documents[:4]))
    with monkeypatch.context() as patch:
        patch.setattr("lit_long.data.prepare.store.Store.remove", lambda store: None)
        prepare(config)
    assert left(tmp_path) == ["a.jsonl", "out", "out.unfinished"]
    assert prepare(config).reused
    assert left(tmp_path) == ["a.jsonl", "out"]
