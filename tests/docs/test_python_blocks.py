"""Every Python block of README and docs/ runs: those of a page in one namespace, in order, among small inputs.

A block behind ``<!-- not run: reason -->`` (a cluster, a GPU) is compiled only. A block without a language right behind
a Python block is what it prints, ``...`` standing for anything. What makes a page small is in ``small.py``.
"""

import doctest
import json
import logging
import sys
from pathlib import Path

import pytest
import torch

from tests.docs.pages import ROOT, blocks, pages
from tests.docs.small import ANYWHERE, ELSEWHERE, WORDS, names_of

pytestmark = pytest.mark.filterwarnings("ignore")
SLOW = ("docs/plugin.md", "docs/data/cleaning.md")
PYTHON = [
    pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [])
    for page in pages()
    if any(block.language == "python" for block in blocks(page))
]
CHECK = doctest.OutputChecker()


@pytest.fixture(scope="module")
def chat_model_dir(tiny_model_dir, tmp_path_factory):
    """The tiny model with a chat template, and a row more for each of its two marks."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("chat") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def here(tmp_path, books, corpus_dir, monkeypatch):
    """A working directory with the texts, corpora and chats that pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = [json.loads(line)["text"] for line in books.read_text(encoding="utf-8").splitlines()]
    for folder in ("texts", "text/books", "text/code/project", "data", "runs/mix", "runs/mine"):
        Path(folder).mkdir(parents=True)
    for number, text in enumerate(texts):
        for folder in ("texts", "text/books"):
            Path(folder, f"{number}.txt").write_text(text[:3000], encoding="utf-8")
    Path("text/code/project/main.py").write_text("print('long')\n", encoding="utf-8")
    with Path("data/chats.jsonl").open("w", encoding="utf-8") as out:
        for number in range(40):
            turns = [("user", f"Number {number}?"), ("assistant", texts[0][100 * number : 100 * number + 200])]
            out.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    for name in ("mix", "mine"):
        Path(f"runs/{name}/corpus").symlink_to(corpus_dir)
    for name in ("a", "b"):  # ledgers of two runs, of one piece each
        Path(f"runs/{name}/ledger").mkdir(parents=True)
        Path(f"runs/{name}/ledger/from-0-1-rank-0.jsonl").write_text('{"step": 0, "spans": [["all", 7, 0, 9]]}\n')
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):  # their handlers hold a stderr that is closed
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.stream = sys.stderr
    yield tmp_path
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def smaller(page, text, folders):
    for old, new in (WORDS.get(page, {}) | ANYWHERE).items():
        text = text.replace(old, new)
    return text.replace("{tiny}", folders["tiny"]).replace("{chat}", folders["chat"])


@pytest.mark.parametrize("page", PYTHON)
def test_blocks_run(page, here, tiny_model_dir, chat_model_dir, capsys):
    folders = {"tiny": tiny_model_dir, "chat": chat_model_dir}
    scope = {"__name__": "example", **names_of(page, tiny_model_dir)}
    for block in blocks(page):
        if block.language != "python":
            continue
        code = compile("\n" * block.line + smaller(page, block.text, folders), str(ROOT / page), "exec")
        if block.not_run or page in ELSEWHERE:
            continue
        exec(code, scope)
        printed = capsys.readouterr().out
        if block.printed is not None:
            flags = doctest.ELLIPSIS
            assert CHECK.check_output(block.printed, printed, flags), f"{page}:{block.line} printed\n{printed}"


def test_what_runs_elsewhere_is_there():
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_every_stand_in_is_needed():
    """Words that no block has any more would only mislead."""
    for page, words in WORDS.items():
        text = "".join(block.text for block in blocks(page) if block.language == "python")
        for old, new in words.items():
            assert old in text, (page, old)
            text = text.replace(old, new)
