"""Shared inputs: a few real documents, the corpus made of them, and a tiny Llama that fits their tokenizer."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: a test that needs the network must fail

os.environ.setdefault("OMP_NUM_THREADS", "1")  # commands that tests start share the cores with the other workers

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import zstandard

ASSETS = Path(__file__).parents[1] / "recipes" / "assets" / "quickstart"
# id -> characters; from different kinds of text, of very different lengths
CUTS = {"persuasion": 40_000, "alice-in-wonderland": 30_000, "as-you-like-it": 12_000, "jargon-file": 900}
HELD_OUT = "alice-in-wonderland"

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _torch_state():
    """Whatever a test does to torch's global settings ends with it."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


# Lightning leaves the port of its process group here, and a command that a later test starts would take the same port
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")


@pytest.fixture(autouse=True)
def _rendezvous():
    """The variables that processes meet by are, after a test, what they were before it."""
    before = {name: os.environ.get(name) for name in RENDEZVOUS}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def books(tmp_path_factory):
    """A .jsonl file of four real documents, the beginnings of books that ship with the quickstart."""
    path = tmp_path_factory.mktemp("books") / "books.jsonl"
    with (ASSETS / "books.jsonl.zst").open("rb") as packed, path.open("w", encoding="utf-8") as out:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8"):
            row = json.loads(line)
            if row["id"] in CUTS:
                row["text"] = row["text"][: CUTS[row["id"]]]
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="session")
def tokenizer_dir():
    """Folder of the quickstart's tokenizer (vocabulary 4,096, no BOS)."""
    return str(ASSETS / "base")


@pytest.fixture(scope="session")
def corpus_dir(books, tokenizer_dir, tmp_path_factory):
    """The token corpus of :func:`books`, one document held out."""
    from lit_long.data.prepare import PrepareConfig, Source, prepare

    output = tmp_path_factory.mktemp("corpus") / "books"
    config = PrepareConfig(
        tokenizer=tokenizer_dir, sources=(Source(path=str(books)),), output=str(output), held_out=(HELD_OUT,)
    )
    prepare(config)
    return str(output)


@pytest.fixture(scope="session")
def smollm2():
    """Folder of a real pretrained chat model, SmolLM2-135M-Instruct in bfloat16 (``make smollm2``)."""
    folder = Path(os.environ.get("LIT_LONG_SMOLLM2", ASSETS.parents[2] / ".cache" / "smollm2"))
    assert (folder / "model.safetensors").is_file(), f"no model in {folder.name}: run make smollm2"
    return str(folder)


@pytest.fixture(scope="session")
def tiny_config():
    """Plain values of a 2-layer Llama with grouped-query attention and a native context of 64 tokens."""
    return {
        "model_type": "llama",
        "vocab_size": 4096,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_config, tokenizer_dir, tmp_path_factory):
    """That Llama with random weights, as a Hugging Face folder with the tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny_config), dtype=torch.float32)
    model.save_pretrained(folder)
    for file in Path(tokenizer_dir).glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return str(folder)
