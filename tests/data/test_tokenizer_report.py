"""tokenizer-report: its counts against plain transformers, white space and code, and its errors."""

import json

import pytest

from lit_long.data.sources import Source
from lit_long.data.tokenizer_report import tokenizer_report
from lit_long.entry import main


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory):
    """A tokenizer without merges: one token a byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate([*letters, "</s>"])}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tokenizer") / "bytes"
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>").save_pretrained(folder)
    return str(folder)


def test_counts_are_those_of_plain_transformers(books, tokenizer_dir, byte_tokenizer):
    from transformers import AutoTokenizer

    texts = [json.loads(line)["text"] for line in books.read_text(encoding="utf-8").splitlines()]
    report = tokenizer_report(
        [byte_tokenizer, tokenizer_dir], [Source(path=str(books), name="books")], length=2048, max_bytes=1 << 30
    )
    first, second = report.rows()
    reference = AutoTokenizer.from_pretrained(tokenizer_dir)
    tokens = sum(len(reference(text, add_special_tokens=False)["input_ids"]) for text in texts)
    words = sum(len(text.split()) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    assert (first["tokens"], second["tokens"]) == (size, tokens)
    assert first["tokens_per_byte"] == 1
    assert second["tokens_per_word"] == tokens / words
    assert second["words_in_context"] == pytest.approx(2048 * words / tokens)
    assert second["more_tokens"] == pytest.approx(tokens / size - 1)
    white = sum(character in " \n\t\r\f\v" for text in texts for character in text)
    assert first["white_share"] == white / size  # ASCII white space is one byte each
    assert first["partial_share"] == sum(len(c.encode()) for t in texts for c in t if ord(c) > 127) / size
    assert report.texts["books"].complete


def test_a_limit_takes_whole_documents_and_says_so(books, tokenizer_dir):
    report = tokenizer_report([tokenizer_dir], [Source(path=str(books), name="books")], length=10, max_bytes=1)
    assert (report.texts["books"].documents, report.texts["books"].complete) == (1, False)


def test_command_writes_tables_and_a_picture(tmp_path, books, tokenizer_dir, byte_tokenizer, capsys):
    code = tmp_path / "code.txt"
    code.write_text("def f(x):\n        if x:\n                return 1\n" * 50)
    sources = [f"text={books}", f"code={code}"]
    out = tmp_path / "out"
    words = [
        "tokenizer-report",
        "--tokenizer",
        tokenizer_dir,
        byte_tokenizer,
        "--source",
        *sources,
        "--output",
        str(out),
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "## code" in shown
    assert "## all" in shown
    report = json.loads((out / "tokenizers.json").read_text())
    share = {(row["source"], row["tokenizer"]): row["white_share"] for row in report["rows"]}
    assert share["code", byte_tokenizer] > share["text", byte_tokenizer]
    total = sum(row["tokens"] for row in report["rows"] if row["source"] != "all")
    assert total == sum(row["tokens"] for row in report["rows"] if row["source"] == "all")
    assert (out / "tokenizers.png").stat().st_size > 5_000
    assert (out / "tokenizers.md").read_text().strip() in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--tokenizer", "nowhere/at-all"], "tokenizer 'nowhere/at-all' cannot be loaded"),
        (["--source", "no/such/file.txt"], "no/such/file.txt"),
        (["--source", "a={books}", "a={books}"], "sources: a twice"),
        (["--source", "all={books}"], "cannot be named all"),
        (["--length", "0"], "must be at least 1"),
        (["--config", "x.yaml"], "and not both"),
    ],
)
def test_a_mistake_is_one_message(change, message, books, tokenizer_dir, capsys):
    change = [word.format(books=books) for word in change]
    words = ["--tokenizer", tokenizer_dir, "--source", str(books), *change]  # the last of an option wins
    assert main(["tokenizer-report", *words]) == 2
    assert message in capsys.readouterr().err


def test_example_of_the_page_adds_symbols_and_trains(tmp_path, monkeypatch, books, tiny_model_dir, capsys):
    import re
    from pathlib import Path

    root = Path(__file__).parents[2]
    page = (root / "docs" / "tokenizer.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("HuggingFaceTB/SmolLM2-135M", tiny_model_dir), "docs/tokenizer.md", "exec"), {})
    assert main(["prepare", "--source", str(books), "--tokenizer", "extended", "--output", "corpus"]) == 0
    small = {
        "model.model": "extended", "model.context_length": 256, "data.corpus": "corpus", "data.sequence_length": 256,
        "data.tokens_per_step": 512, "data.validation_split": "null", "trainer.max_steps": 2,
        "trainer.logger.save_dir": "run",
    }  # fmt: skip
    words = [word for key, value in small.items() for word in (f"--{key}", str(value))]
    assert main(["fit", "--config", str(root / "recipes/quickstart.yaml"), *words]) == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
