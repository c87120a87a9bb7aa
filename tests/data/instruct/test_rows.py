"""Rows of chat files and what is made of them, in the forms that they come in."""

import gzip
import json
import os
import re

import pytest
import zstandard
from chat_templates import CASES

from lit_long.data.instruct.chat import ChatFormat
from lit_long.data.instruct.formats import to_messages
from lit_long.data.instruct.rows import read_rows
from lit_long.errors import UserError

ROW = b'{"prompt": "?", "completion": "Yes."}\n'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", gzip.compress(ROW * 999)[:-20], "cannot be read"),
        ("a.jsonl.gz", ROW, "cannot be read"),
        ("a.jsonl.zst", zstandard.compress(os.urandom(500_000).hex().encode())[:-99], "cannot be read"),
        ("a.parquet", ROW, "cannot be read"),
        ("a.jsonl", b'{"prompt": "\xff"}', ":1: no JSON"),
    ],
)
def test_damaged_files_are_named(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(name) + ".*" + says):
        list(read_rows(str(tmp_path)))


def test_every_part_of_a_compressed_file_is_read(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(ROW * 2) * 3)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(ROW) * 2)
    assert len(list(read_rows(str(tmp_path)))) == 8


def test_arguments_of_tool_calls_may_be_json_texts(tokenizer):
    """As chat APIs write them; a template would quote them a second time."""
    (template, conversation, _) = CASES["mistral, tool"]
    call = conversation[1]["tool_calls"][0]
    texts = {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
    row = {"messages": [conversation[0], {**conversation[1], "tool_calls": [texts]}, *conversation[2:]]}
    form = ChatFormat(tokenizer, template)
    assert form.encode(to_messages(row, "messages")[0]).text == form.encode(conversation).text
