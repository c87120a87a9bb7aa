"""Settings for runs against a scripted server."""

import json

import pytest
from scripted_server import Scripted

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture
def server():
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    file = tmp_path_factory.mktemp("template") / "chat.jinja"
    file.write_text(TEMPLATE)
    return str(file)


@pytest.fixture(scope="session")
def many(books, tmp_path_factory):
    """Twelve documents cut from real books, of 2,000 to 20,000 characters."""
    texts = [json.loads(line)["text"] for line in books.read_text().splitlines()]
    long = max(texts, key=len)
    file = tmp_path_factory.mktemp("many") / "many.jsonl"
    rows = [{"id": f"doc-{i}", "text": long[i * 1000 : i * 1000 + 2000 + i * 1500]} for i in range(12)]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return file


@pytest.fixture
def make(many, tokenizer_dir, template, tmp_path, server):
    """Settings of a run against the scripted server; keys of the generator begin with generator_."""
    from lit_long.data.sources import Source
    from lit_long.synthesis import Server, SynthesizeConfig

    def settings(output="out", path=None, **keys):
        own = {k.removeprefix("generator_"): keys.pop(k) for k in list(keys) if k.startswith("generator_")}
        generator = {"base_url": server.url, "model": "scripted", "backoff": 0.01, "concurrency": 3} | own
        values = {"target_length": 1500, "min_document_tokens": 64, "chunk_tokens": 200} | keys
        return SynthesizeConfig(
            tokenizer=tokenizer_dir,
            sources=(Source(path=str(path or many)),),
            output=str(tmp_path / output),
            generator=Server(**generator),
            chat_template=template,
            **values,
        )

    return settings
