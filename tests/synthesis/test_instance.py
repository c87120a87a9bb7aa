"""What a training instance holds: the chunk always, as much of the document as fits, to the token."""

import itertools
import json

import pytest

from lit_long.data.tokenizer import load_tokenizer
from lit_long.synthesis.draw import Draw
from lit_long.synthesis.instance import Wording, fit
from lit_long.synthesis.material import Span, kept_part, pick, split
from lit_long.synthesis.replies import RejectedError
from lit_long.synthesis.tokens import Counter

WORDING = Wording("normal", "Who said so, and why?", "Nobody did; it was dreamt.")


@pytest.fixture(scope="module")
def counter(tokenizer_dir, template):
    from pathlib import Path

    tokenizer = load_tokenizer(tokenizer_dir)
    tokenizer.chat_template = Path(template).read_text()
    return Counter(tokenizer)


@pytest.fixture(scope="module")
def texts(books):
    book = max((json.loads(line)["text"] for line in books.read_text().splitlines()), key=len)
    mixed = "".join(f"{i}. Ça alors — 天地玄黄宇宙洪荒。 🦜🏽 שלום e\u0301\u200d\n" for i in range(1500))
    return {"book": book, "unicode": mixed, "one word": "a" * 30_000}


def length(counter, messages):
    """Counted by transformers alone."""
    ids = counter.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    return len(ids)


@pytest.mark.parametrize("name", ["book", "unicode", "one word"])
@pytest.mark.parametrize("target", [500, 2048])
def test_chunks_are_kept_and_the_length_is_exact(texts, counter, name, target):
    text = texts[name]
    for cut, place in (("start", 0.0), ("anywhere", 0.0), ("anywhere", 0.4), ("anywhere", 0.999999)):
        part = kept_part(text, counter, target - 250, cut, place)
        assert len(counter.offsets(text[part.start : part.end])) <= target - 240
        chunks = split(text, part, counter, 100, 1)
        assert "".join(text[c.start : c.end] for c in chunks).split() == text[part.start : part.end].split()
        assert all(len(counter.offsets(text[c.start : c.end])) <= 102 for c in chunks)
        for chunk in (chunks[0], chunks[len(chunks) // 2], chunks[-1]):
            made = fit(text, part.start, (chunk,), WORDING, counter, target)
            document = text[made.kept.start : made.kept.end]
            assert document in made.messages[0]["content"]
            assert made.kept.start <= chunk.start
            assert chunk.end <= made.kept.end
            assert made.tokens == length(counter, made.messages) <= target
            # one more token of the document would be too much
            more = text[made.kept.start : made.kept.end + 40]
            ends = [end for _, end in counter.offsets(more) if end > len(document)]
            if ends:
                assert length(counter, WORDING.messages(more[: ends[0]])) > target
            else:
                assert made.kept.end == len(text)
                assert made.tokens > target - 4 or made.kept.start == 0
            [(first, last)] = made.chunk_tokens
            offsets = counter.offsets(document)
            begin, end = chunk.start - made.kept.start, chunk.end - made.kept.start
            assert offsets[first][0] <= begin < offsets[first][1]
            assert offsets[last - 1][0] < end <= offsets[last - 1][1]


def test_a_chunk_beyond_the_target_length_costs_the_beginning_of_the_document(texts, counter):
    text = texts["book"]
    chunk = Span(30_000, 30_300)
    made = fit(text, 0, (chunk,), WORDING, counter, 600)
    assert made.kept.start > 20_000
    assert made.kept.end == chunk.end
    assert made.tokens == length(counter, made.messages)
    assert 590 <= made.tokens <= 600
    with pytest.raises(RejectedError, match="does_not_fit"):
        fit(text, 0, (Span(0, 30_000),), WORDING, counter, 600)


def test_a_short_document_is_kept_whole(counter):
    text = "A short tale.\nIt ends here. "
    made = fit(text, 0, (Span(0, len(text)),), WORDING, counter, 600)
    assert (made.kept.start, made.kept.end) == (0, len(text))
    assert made.chunk_tokens == ((0, made.document_tokens),)


def test_special_tokens_in_text_are_refused(texts, counter):
    special = counter.tokenizer.eos_token
    text = texts["book"][:3000] + special + texts["book"][3000:5000]
    assert counter.special_in(text)
    with pytest.raises(RejectedError, match="special_token"):
        fit(text, 0, (Span(0, 100),), WORDING, counter, 1500)
    with pytest.raises(RejectedError, match="special_token"):
        fit(texts["book"], 0, (Span(0, 100),), Wording("short", "What?", special), counter, 600)


def test_several_chunks_are_different_and_in_order():
    chunks = [Span(i, i + 1) for i in range(4)]
    for a, b in itertools.product((0.0, 0.3, 0.6, 0.999), repeat=2):
        picked = pick(chunks, Draw("multi_chunk", 0.0, (a, b), 1))
        assert len(set(picked)) == 2
        assert picked[0].start < picked[1].start
