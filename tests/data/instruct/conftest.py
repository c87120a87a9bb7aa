"""A tokenizer that knows the special tokens of all templates, and chats about real books."""

import json

import pytest
from chat_templates import CHATML, SPECIAL


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, "bos_token": "<s>", "eos_token": "</s>"})
    return tokenizer


@pytest.fixture(scope="session")
def chats(books, tmp_path_factory):
    """Two files: twelve short chats of one and two rounds, and five long ones about a stretch of a book."""
    folder = tmp_path_factory.mktemp("chats")
    texts = [json.loads(line)["text"] for line in books.read_text().splitlines()]
    words = texts[0].split()
    short, long = [], []
    for number in range(12):
        pairs = []
        for turn in range(1 + number % 2):
            place = 37 * number + 11 * turn
            pairs.append(("user", f"What follows '{' '.join(words[place : place + 3])}'?"))
            pairs.append(("assistant", " ".join(words[place + 3 : place + 5 + number % 4])))
        short.append({"messages": [{"role": role, "content": text} for role, text in pairs]})
    for number in range(5):
        stretch = texts[1][2000 * number : 2000 * number + 350 + 60 * number]
        question = f'"""{stretch}"""\n\nQuestion: how does it begin?'
        long.append({"prompt": question, "completion": stretch[: 20 + 5 * number], "document_id": f"book {number}"})
    for name, rows in (("short", short), ("long", long)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def chat_model(tokenizer, tiny_config, tmp_path_factory):
    """A tiny Llama whose tokenizer has a ChatML template; its stop token is <|im_end|>."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("chat_model")
    torch.manual_seed(0)
    config = AutoConfig.for_model(**tiny_config | {"vocab_size": len(tokenizer), "max_position_embeddings": 256})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return str(folder)
