"""Items of work: the same documents in the same order however they are cut, in bounded memory."""

import gzip
import json
import pickle
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lit_long.data.sources.jsonl as jsonl_module
import lit_long.data.sources.streams as streams_module
from lit_long.data.sources import BadRow, Document, Source, plan_items, read_item
from lit_long.errors import UserError

LIMIT = 300
LINES = st.lists(
    st.one_of(
        st.tuples(st.just("row"), st.text(min_size=1, max_size=40).filter(lambda t: t.strip() and "\0" not in t)),
        st.tuples(st.just("long"), st.integers(LIMIT - 3, LIMIT + 300)),
        st.tuples(st.just("blank"), st.sampled_from(["", " ", "\t"])),
        st.tuples(st.just("bad"), st.just("{")),
    ),
    max_size=25,
)


def reference(lines, place, name):
    """What should come out, written down from the lines themselves and not from the bytes of a file."""
    for number, (kind, content) in enumerate(lines, 1):
        if kind == "row":
            yield ("document", content, f"{name}:{number}", f"{place}:{number}")
        elif kind == "long":
            yield ("too_long" if content > LIMIT else "document", None, None, f"{place}:{number}", content)
        elif kind == "bad":
            yield ("invalid_json", None, None, f"{place}:{number}")


def line_bytes(kind, content):
    if kind == "row":
        return json.dumps({"text": content}, ensure_ascii=len(content) % 2 == 0).encode()
    if kind == "long":  # a line of exactly so many bytes
        return b'{"text": "' + b"x" * (content - 12) + b'"}'
    return content.encode()


def seen(record):
    if isinstance(record, BadRow):
        size = (int(record.message.split()[0]),) if record.kind == "too_long" else ()
        return (record.kind, None, None, record.place, *size)
    text = None if set(record.text) == {"x"} and len(record.text) > LIMIT - 20 else record.text
    size = () if text else (len(record.text) + 12,)
    return ("document", text, text and record.id, record.place, *size)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=LINES,
    end=st.sampled_from([b"\n", b"\r\n"]),
    final=st.booleans(),
    item_bytes=st.integers(1, 2000),
    chunk=st.sampled_from([1, 7, 64, 1 << 20]),
)
def test_json_lines_do_not_depend_on_how_they_are_cut(tmp_path, pack, lines, end, final, item_bytes, chunk):
    data = end.join(line_bytes(*line) for line in lines) + (end if final and lines else b"")
    if not final and lines and lines[-1][1] == "":
        lines = lines[:-1]  # nothing after the last line end is no line
    for suffix, packed in pack.items():
        path = tmp_path / f"a{suffix}"
        path.write_bytes(packed(data))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsonl_module, "CHUNK_BYTES", chunk)
            patch.setattr(streams_module, "CHUNK_BYTES", chunk)
            sources = [Source(path=str(path))]
            items = list(plan_items(sources, item_bytes=item_bytes, max_document_bytes=LIMIT))
            found = [
                seen(r)
                for item in pickle.loads(pickle.dumps(items))
                for r in read_item(item, sources, max_document_bytes=LIMIT)
            ]
        assert found == list(reference(lines, path, path.name))
        assert [item.number for item in items] == list(range(len(items)))
        longest = max((len(line_bytes(*line)) for line in lines), default=0) + len(end)
        assert all(item.size < item_bytes + longest for item in items)
        if suffix == ".jsonl":
            assert sum(item.size for item in items) == len(data)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(min_size=1, max_size=200).filter(lambda t: t.strip() and "\0" not in t), min_size=1),
    group=st.integers(1, 30),
    item_bytes=st.integers(1, 3000),
)
def test_parquet_does_not_depend_on_how_it_is_cut(tmp_path, records, texts, group, item_bytes):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=group)
    found = records(path, item_bytes=item_bytes)
    assert [(d.text, d.place, d.id) for d in found] == [
        (text, f"{path}#{i}", f"a.parquet#{i}") for i, text in enumerate(texts)
    ]


def test_items_gather_small_files_and_cut_large_ones_but_never_mix_sources(tmp_path):
    for name, lines in (("a.jsonl", 3), ("b.txt", 3), ("c.jsonl", 40), ("d.jsonl.gz", 0), ("e.md", 3)):
        row = json.dumps({"text": "x" * 88}) + "\n"  # 101 bytes
        data = (row * lines).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    sources = [Source(path=str(tmp_path)), Source(path=str(tmp_path / "a.jsonl"))]
    items = list(plan_items(sources, item_bytes=1000, max_document_bytes=10_000))
    assert [(item.source, item.number, item.size) for item in items] == [
        (0, 0, 606),
        (0, 1, 1010),
        (0, 2, 1010),
        (0, 3, 1010),
        (0, 4, 1010),
        (0, 5, 303),
        (1, 6, 303),
    ]
    again = list(plan_items(sources, item_bytes=1000, max_document_bytes=10_000))
    assert again == items


@pytest.mark.parametrize("chunk", [1, 50, 1000, 1 << 20])
def test_items_are_the_same_plain_and_compressed_whatever_the_buffer(tmp_path, pack, monkeypatch, chunk):
    monkeypatch.setattr(jsonl_module, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(streams_module, "CHUNK_BYTES", chunk)
    lengths = [30, *[20] * 30, 900, *[20] * 60, 700, 20, 20, 55, 900]
    data = b"".join(b"x" * (length - 1) + b"\n" for length in lengths)
    expected, size, first = [], 0, 1
    for number, length in enumerate(lengths, 1):
        size += length
        if size >= 50 or number == len(lengths):
            expected.append((first, size))
            size, first = 0, number + 1
    for suffix, packed in pack.items():
        (tmp_path / f"a{suffix}").write_bytes(packed(data))
        items = plan_items([Source(path=str(tmp_path / f"a{suffix}"))], item_bytes=50)
        assert [(part.first, part.size) for item in items for part in item.parts] == expected


def test_sources_are_checked_before_the_first_item(tmp_path):
    good, bad = Source(path=str(tmp_path / "a.txt")), Source(path=str(tmp_path / "nothing"))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="no such file"):
        plan_items([good, bad], item_bytes=1)
    with pytest.raises(UserError, match="item_bytes 0"):
        plan_items([good], item_bytes=0)


def test_a_file_that_shrinks_between_planning_and_reading(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 9)
    sources = [Source(path=str(path))]
    (item,) = plan_items(sources, item_bytes=1 << 20)
    path.write_text('{"text": "a"}\n' * 4)
    with pytest.raises(UserError, match="became shorter while it was read"):
        list(read_item(item, sources))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt"])
def test_half_a_gigabyte_in_one_line_is_never_held(tmp_path, suffix):
    """Peak memory of a process that plans and reads a file with a line of 500 MB between two good ones."""
    path = tmp_path / f"a{suffix}"
    good, size = b'{"text": "good"}\n', 500_000_000
    if suffix == ".jsonl.zst":
        packer = zstandard.ZstdCompressor(level=1).compressobj()
        with path.open("wb") as out:
            for piece in (good, *[b"x" * 10_000_000] * 50, b"\n", good):
                out.write(packer.compress(piece))
            out.write(packer.flush())
    elif suffix == ".jsonl.gz":
        with gzip.open(path, "wb", compresslevel=1) as out:
            for piece in (good, *[b"x" * 10_000_000] * 50, b"\n", good):
                out.write(piece)
    else:  # a hole in the file: NUL bytes that take no place on disk
        with path.open("wb") as out:
            out.write(good)
            out.seek(size, 1)
            out.write(b"\n" + good)
    program = f"""
        import resource
        from lit_long.data.sources import Source, plan_items, read_item
        import pyarrow, json

        def peak():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10

        sources, before = [Source(path={str(path)!r})], peak()
        for item in plan_items(sources, item_bytes=1 << 20, max_document_bytes=1 << 20):
            for record in read_item(item, sources, max_document_bytes=1 << 20):
                print(type(record).__name__, getattr(record, "kind", ""), record.place, getattr(record, "message", ""))
        print(peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=300
    )
    *shown, grown = done.stdout.splitlines()
    message = f"{size:,} bytes, more than max_document_bytes (1,048,576); cut it or raise the limit"
    if suffix == ".txt":
        assert shown == [f"BadRow too_long {path} {message.replace(f'{size:,}', f'{path.stat().st_size:,}')}"]
    else:
        assert shown == [f"Document  {path}:1 ", f"BadRow too_long {path}:2 {message}", f"Document  {path}:3 "]
    assert int(grown) < 40, f"{grown} MiB more than at the start"


def test_real_text_comes_whole_from_every_packing(tmp_path, books, pack, records):
    data = books.read_bytes()
    texts = [json.loads(line)["text"] for line in data.splitlines()]
    for suffix, packed in pack.items():
        (tmp_path / f"a{suffix}").write_bytes(packed(data))
        found = records(tmp_path / f"a{suffix}", item_bytes=20_000)
        assert all(isinstance(r, Document) for r in found)
        assert [d.text for d in found] == texts
