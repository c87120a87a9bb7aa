"""A release of a run on conversations: readers must render and stop as the training did."""

import json

import pytest
from hub_checkpoints import llama, record

from lit_long_hub.export import export_checkpoint

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
END = 2  # <|end|>


@pytest.fixture
def chat_checkpoint(make_checkpoint):
    model = llama()
    training = record(model)["training"] | {"input_loss": "long", "chat_template": TEMPLATE, "stop_token_id": END}
    return make_checkpoint(model, training=training)


def test_the_template_that_was_trained_with_is_released(chat_checkpoint, tmp_path):
    from transformers import AutoTokenizer

    release = tmp_path / "out"
    result = export_checkpoint(chat_checkpoint, release)
    assert result.verification["passed"]
    tokenizer = AutoTokenizer.from_pretrained(release)
    asked = [{"role": "user", "content": "Who?"}]
    shown = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert shown == "user: Who?<|end|>assistant: "
    # where older readers look for it, which the base model's own template was in before
    assert json.loads((release / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE
    for name in ("config.json", "generation_config.json"):
        assert json.loads((release / name).read_text())["eos_token_id"] == [tokenizer.eos_token_id, END]


def test_the_card_speaks_of_conversations(chat_checkpoint, tmp_path):
    export_checkpoint(chat_checkpoint, tmp_path / "out", verify=False)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "tuned on conversations at a context of 512 tokens (its base model: 64)" in card
    assert "continual pretraining" not in card
    assert "trained it to continue text" not in card
    snippet = card.partition("```python\n")[2].partition("```")[0]
    assert "apply_chat_template" in snippet
    compile(snippet, "card", "exec")
