"""Every kind of bad row, with its exact place, in every kind of file that can have it; no good row is lost."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_long.data.sources import BAD_KINDS, BadRow, Document

GOOD = b'{"id": "good", "text": "text"}'
LIMIT = 1000
CASES = {
    "invalid_json": [b"{nope}", b'{"text": "b"', b'{"text": "a"} {"text": "b"}', b'{"text": "a\tb"}', b"[" * 999,
                     b'{"n": ' + b"1" * 5000 + b', "text": "x"}', b'\x00{"text": "a"}'],
    "not_an_object": [b"[1]", b'"text"', b"3", b"null"],
    "missing_text": [b'{"txet": "b"}', b'{"text": null}', b'{"text": ["a"]}', b'{"text": 3}', b"{}"],
    "invalid_utf8": [b'{"text": "caf\xe9"}', b'{"text": "\xed\xa0\xbd"}', b'{"\xff": 1, "text": "a"}'],
    "invalid_unicode": [b'{"text": "\\ud83d alone"}', b'{"text": "a", "id": "\\udc00"}'],
    "empty": [b'{"text": ""}', b'{"text": " \\n\\u00a0"}'],
    "nul": [b'{"text": "a\\u0000b"}', b'{"text": "a", "id": "\\u0000"}'],
    "too_long": [b'{"text": "' + b"x" * LIMIT + b'"}', b"y" * 5000],
}  # fmt: skip


def test_the_cases_are_all_kinds():
    assert tuple(CASES) == BAD_KINDS


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize(("kind", "line"), [(k, line) for k, lines in CASES.items() for line in lines])
def test_json_lines(tmp_path, pack, records, suffix, kind, line):
    limit = 1 << 20 if kind != "too_long" else LIMIT
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack[suffix](GOOD + b"\n\n" + line + b"\r\n" + GOOD + b"\n" + line))
    good, bad, good_again, last = records(path, item_bytes=10, max_document_bytes=limit)
    assert (good.place, good_again.place) == (f"{path}:1", f"{path}:4")
    assert good.text == good_again.text == "text"
    assert [(r.place, r.kind) for r in (bad, last)] == [(f"{path}:3", kind), (f"{path}:5", kind)]
    assert isinstance(bad, BadRow)
    assert "\n" not in bad.message


def test_messages_say_what_was_found(tmp_path, records):
    def message(line):
        (tmp_path / "a.jsonl").write_bytes(line)
        (bad,) = records(tmp_path / "a.jsonl", max_document_bytes=LIMIT, text_field="body")
        return bad.message

    assert "not valid JSON (Expecting property name enclosed in double quotes at column 2)" in message(b"{nope}")
    assert "found list" in message(b"[1]")
    assert "no text in field 'body'; found ['id', 'text']. Name the field with text_field" in message(GOOD)
    assert "not UTF-8 (byte 13: 0xe9)" in message(b'{"body": "caf\xe9"}')
    assert "not Unicode text (character 2: '\\ud83d')" in message(b'{"body": "a \\ud83d"}')
    assert "a NUL in the text (character 1)" in message(b'{"body": "a\\u0000"}')
    assert "1,012 bytes, more than max_document_bytes (1,000)" in message(b'{"body": "' + b"x" * LIMIT + b'"}\r\n')


def test_the_limit_itself_is_no_bad_row(tmp_path, pack, records):
    line = b'{"text": "' + b"x" * (LIMIT - 12) + b'"}'
    for suffix, packed in pack.items():
        for end in (b"", b"\n", b"\r\n"):
            (tmp_path / f"a{suffix}").write_bytes(packed(line + end))
            (document,) = records(tmp_path / f"a{suffix}", max_document_bytes=len(line))
            assert isinstance(document, Document)
            (bad,) = records(tmp_path / f"a{suffix}", max_document_bytes=len(line) - 1)
            assert (bad.kind, bad.message.split()[0]) == ("too_long", "1,000")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \n", "empty"),
        (b"caf\xe9", "invalid_utf8"),
        (b"\xff\xfea\0b\0", "invalid_utf8"),  # UTF-16, as Windows writes it
        (b"a\0b", "nul"),
        (b"x" * (LIMIT + 1), "too_long"),
    ],
)
def test_plain_text(tmp_path, records, content, kind):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    (bad,) = records(path, max_document_bytes=LIMIT)
    assert (bad.place, bad.kind) == (str(path), kind)


def test_parquet(tmp_path, records):
    texts = [b"good", None, b"", b"caf\xe9", b"\xed\xa0\xbd", b"a\0b", b"x" * (LIMIT + 1), b"x" * LIMIT]
    kinds = [None, "missing_text", "empty", "invalid_utf8", "invalid_utf8", "nul", "too_long", None]
    strings = pa.array(texts, type=pa.binary()).view(pa.string())  # not checked by Arrow, nor by Parquet
    for name, column in (("string", strings), ("binary", pa.array(texts, type=pa.binary()))):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": column}), path)
        found = records(path, max_document_bytes=LIMIT)
        assert [getattr(r, "kind", None) for r in found] == kinds
        assert [r.place for r in found] == [f"{path}#{i}" for i in range(len(texts))]


def test_bad_ids_and_licenses_of_parquet(tmp_path, records):
    bad = pa.array([b"ok", b"\xe9"], type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": ["a", "b"], "id": bad}), tmp_path / "a.parquet")
    good, broken = records(tmp_path / "a.parquet")
    assert (good.id, broken.kind, broken.place) == ("ok", "invalid_utf8", f"{tmp_path / 'a.parquet'}#1")
    assert [d.id for d in records(tmp_path / "a.parquet", id_field=None)] == ["a.parquet#0", "a.parquet#1"]


def test_invalid_lines_are_no_reason_to_lose_the_rest(tmp_path, records):
    """A file of a thousand rows with every bad line in it: the good ones come in order, each bad one once."""
    lines, expected = [], []
    bad = [(kind, line) for kind, some in CASES.items() for line in some if kind != "too_long"]
    for number in range(1, 1001):
        if number % 7 == 0:
            kind, line = bad[number % len(bad)]
            lines.append(line)
            expected.append((kind, number))
        else:
            lines.append(json.dumps({"text": f"text {number}"}).encode())
            expected.append((f"text {number}", number))
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = records(tmp_path / "a.jsonl", item_bytes=500)
    assert [(getattr(r, "kind", None) or r.text, int(r.place.split(":")[-1])) for r in found] == expected
