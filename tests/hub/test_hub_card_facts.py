"""The card's tables are the run's own numbers, and what was not measured is called so."""

import json

import yaml
from hub_checkpoints import llama, record

from lit_long_hub.card import CardFacts, model_card
from lit_long_hub.evaluation_results import read_results
from lit_long_hub.front_matter import front_matter_problems
from lit_long_hub.licence import front_matter

TRAINING = {
    "steps": 30,
    "tokens_per_step": 1000,
    "tokens": 30_000,
    "sequence_length": 512,
    "stages": [[0, 128], [10, 512]],
    "mix": [
        {"source": "books", "share": 0.75, "available": 10_000, "trained": 24_000, "license": "public domain"},
        {"source": "code", "share": 0.25, "available": 60_000, "trained": 6_000, "license": None},
    ],
}


def card(training=TRAINING, **changes):
    model = llama()
    entry = record(model)
    entry["training"] = training
    facts = {
        "record": entry,
        "config": model.config.to_dict(),
        "base_model": "example/tiny",
        "parameters": 10,
        "licence": {"license": "mit"},
        "verification": None,
        "evaluation": None,
    }
    return model_card(CardFacts(**(facts | changes)))


def report(folder, *, paths, length=256):
    """A report.json of models at ``paths``; losses 4.0, 4.1, ..."""

    def loss(value):
        return {"mean": value, "low": value - 0.1, "high": value + 0.1, "clusters": 4}

    models = [
        {
            "name": f"m{i}",
            "path": str(path),
            "loss_by_position": {
                "buckets": [
                    {"first": 1, "last": 64, "loss": loss(4.0 + i)},
                    {"first": 65, "last": length, "loss": loss(3.5 + i)},
                ]
            },
            "context_gain": {"target_tokens": 32, "contexts": [{"context": 64, "loss": loss(3.9 + i)}]},
        }
        for i, path in enumerate(paths)
    ]
    paired = [{"first": "m0", "second": "m1", "within_native": loss(0.02)}]
    content = {"models": models, "paired": paired, "windows": {"length": length}, "corpus": {"name": "books/held_out"}}
    (folder / "report.json").write_text(json.dumps(content))
    return folder / "report.md"


def test_asked_and_trained_data_and_stages():
    text = card()
    assert "| books | 75.0% | 80.0% | 24,000 | 10,000 | 2.4 | public domain |" in text
    assert "| code | 25.0% | 20.0% | 6,000 | 60,000 | 0.1 | not stated |" in text
    assert "| 1 | 128 | 10 | 10,000 |" in text
    assert "| 2 | 512 | 20 | 20,000 |" in text


def test_what_was_not_measured_is_called_so():
    text = card({"steps": 3, "sequence_length": 128})
    assert "| Loss by length | not measured |" in text
    assert "| Short texts, against the base model | not measured |" in text
    assert "trained on sequences of 128 at most" in text
    assert "## Data" not in text
    assert "## Stages" not in text
    assert "model-index" not in text


def test_every_length_is_in_the_model_index(tmp_path):
    own = tmp_path / "run.ckpt"
    results = read_results(report(tmp_path, paths=["recipes/base", own]), own)
    head = front_matter(card(results=results, languages=("en",), datasets=("acme/books",)))
    assert front_matter_problems(head) == []
    rows = head["model-index"][0]["results"]
    found = {row["dataset"]["config"]: row["metrics"][0]["value"] for row in rows}
    assert found == {"positions 1 to 64": 5.0, "positions 65 to 256": 4.5, "context 64": 4.9}
    assert head["language"] == ["en"]
    assert head["datasets"] == ["acme/books"]
    text = card(results=results)
    assert "| Longest text it was evaluated on | 256 tokens |" in text
    assert "| Within 64 tokens, against m0 | +0.020 nats per token" in text


def test_numbers_of_another_model_are_not_taken(tmp_path):
    path = report(tmp_path, paths=[tmp_path / "a.ckpt", tmp_path / "b.ckpt"])
    assert read_results(path, tmp_path / "c.ckpt").index == []


def test_the_index_is_the_hubs_own_form(tmp_path):
    """huggingface_hub reads the results back, every length kept."""
    from huggingface_hub import ModelCard

    own = tmp_path / "run.ckpt"
    text = card(results=read_results(report(tmp_path, paths=[own]), own))
    results = ModelCard(text).data.eval_results
    assert {(r.dataset_config, r.metric_value) for r in results} == {
        ("positions 1 to 64", 4.0),
        ("positions 65 to 256", 3.5),
        ("context 64", 3.9),
    }
    assert yaml.safe_load(text.split("---")[1])["model-index"][0]["name"] == "tiny, 512 tokens"


def test_cache_size_is_computed():
    # 2 x 2 layers x 2 heads x 8 dimensions x 512 tokens x 2 bytes
    assert "| Key-value cache at full length, 16-bit (computed) | 64 KiB a sequence |" in card()
