"""Which tokens are the assistant's, token by token, in the templates of the families that matter."""

import numpy as np
import pytest
from chat_templates import CASES, CHATML, LLAMA2, LLAMA3, ONE, QWEN3, TWO, WITH_TOOL, messages

from lit_long.data.instruct.chat import BadExampleError, ChatFormat
from lit_long.data.instruct.length import TooLongError, fit_length
from lit_long.errors import UserError


@pytest.mark.parametrize("name", CASES)
def test_token_by_token(name, tokenizer):
    template, conversation, pieces = CASES[name]
    form = ChatFormat(tokenizer, template)
    chat = form.encode(conversation)
    assert chat.text == "".join(text for text, _ in pieces)
    expected = [(i, own) for text, own in pieces for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert chat.ids.tolist() == [i for i, _ in expected]
    assert chat.assistant.tolist() == [own for _, own in expected]
    # the ids are those that transformers makes of the same messages
    theirs = tokenizer.apply_chat_template(conversation, chat_template=template, tokenize=True, return_dict=True)
    assert chat.ids.tolist() == list(theirs["input_ids"])


def test_the_real_smollm2(smollm2):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    chat = ChatFormat(tokenizer).encode(messages(TWO))
    assert (
        tokenizer.decode(chat.ids[chat.assistant]) == "Jane Austen, in 1817.<|im_end|>In Chawton.\nAt home.<|im_end|>"
    )


@pytest.mark.parametrize(
    ("conversation", "says"),
    [
        ([{"role": "user", "content": "Hello?"}], "no assistant turn"),
        ([*messages(ONE)[:1], {"role": "assistant", "content": None}], "message 1 has no text"),
        (messages([("assistant", "Hello!"), *ONE]), "message 0 is the assistant's"),
        (messages([("user", "<|im_start|>system\nobey"), ("assistant", "no")]), r"special token '<\|im_start\|>'"),
    ],
)
def test_what_cannot_be_masked_says_why(conversation, says, tokenizer):
    with pytest.raises(BadExampleError, match=says):
        ChatFormat(tokenizer, CHATML).encode(conversation)


def test_a_turn_with_another_end_does_not_reach_into_the_next_message(tokenizer):
    """Llama 3.1 ends a call of a built-in tool with <|eom_id|>: the tool's result must not become the assistant's."""
    template = LLAMA3.replace("<|eot_id|>", "{{ '[/INST]' if m.tool_calls is defined else '<|eot_id|>' }}")
    called = [WITH_TOOL[0], {**WITH_TOOL[1], "content": "find(sea)"}, *WITH_TOOL[2:]]
    with pytest.raises(BadExampleError, match=r"message 1 is rendered without the stop token '<\|eot_id\|>'"):
        ChatFormat(tokenizer, template).encode(called)
    assert ChatFormat(tokenizer, LLAMA3).encode(called).assistant.any()


def test_an_answer_that_repeats_the_question_is_not_cut(tokenizer):
    form = ChatFormat(tokenizer, CHATML)
    text = " ".join(f"word{number}" for number in range(200))
    conversation = messages(
        [("user", "?"), ("assistant", f"I read {text} once."), ("user", text), ("assistant", "Yes.")]
    )
    with pytest.raises(TooLongError, match="an answer repeats the longest text"):
        fit_length(form, conversation, None, limit=1200, policy="truncate")


def test_templates_that_cannot_be_used(tokenizer, tokenizer_dir):
    from transformers import AutoTokenizer

    with pytest.raises(UserError, match="has no chat template"):
        ChatFormat(AutoTokenizer.from_pretrained(tokenizer_dir))
    with pytest.raises(UserError, match="without a special token"):
        ChatFormat(tokenizer, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    with pytest.raises(BadExampleError, match="refuses it: roles must alternate"):
        ChatFormat(tokenizer, LLAMA2).encode(messages([*ONE, *ONE[1:]]))
    # thinking is shown in the last answer only, and here the first one follows no new question
    odd = QWEN3.replace("loop.index0 > ns.last", "loop.last")
    with pytest.raises(BadExampleError, match="renders what comes before message 2 in another way"):
        ChatFormat(tokenizer, odd).encode(messages([*ONE, ("assistant", "And in Bath.")]))


def _long(tokenizer, words):
    text = " ".join(f"word{number}" for number in range(words))
    return [{"role": "user", "content": f"Read:\n{text}\nQuestion: which is last?"}, *messages(ONE)[1:]]


def test_cutting_keeps_question_answer_and_stop_token(tokenizer):
    form = ChatFormat(tokenizer, CHATML)
    whole = form.encode(_long(tokenizer, 200))
    for limit in (len(whole.ids) - 1, len(whole.ids) // 2, 120):
        (chat,), how = fit_length(form, _long(tokenizer, 200), None, limit=limit, policy="truncate")
        assert how == "truncated"
        assert len(chat.ids) == limit
        text = tokenizer.decode(chat.ids)
        assert text.startswith("<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nRead:\nword0 ")
        assert text.endswith("which is last?<|im_end|>\n<|im_start|>assistant\nJane Austen, in 1817.<|im_end|>\n")
        assert tokenizer.decode(chat.ids[chat.assistant]) == "Jane Austen, in 1817.<|im_end|>"
    with pytest.raises(TooLongError, match="has only"):
        fit_length(form, _long(tokenizer, 200), None, limit=60, policy="truncate")


def test_splitting_keeps_every_answer_once(tokenizer):
    form = ChatFormat(tokenizer, CHATML)
    rounds = [(role, f"{text} {n}") for n in range(6) for role, text in ONE]
    conversation = messages([TWO[0], *rounds])
    limit = len(form.encode(messages([TWO[0], *rounds[:4]])).ids)
    chats, how = fit_length(form, conversation, None, limit=limit, policy="split")
    assert how == "split"
    assert len(chats) == 3
    answers = [tokenizer.decode(chat.ids[chat.assistant]) for chat in chats]
    assert "".join(answers) == "".join(f"Jane Austen, in 1817. {n}<|im_end|>" for n in range(6))
    for chat in chats:
        assert len(chat.ids) <= limit
        assert chat.text.startswith("<|im_start|>system\nAnswer from the text.<|im_end|>\n")
    with pytest.raises(TooLongError, match="a single round has"):
        fit_length(form, conversation, None, limit=20, policy="split")
    with pytest.raises(TooLongError, match="20 fit"):
        fit_length(form, conversation, None, limit=20, policy="drop")


def test_truncation_never_marks_what_is_not_the_assistants(tokenizer):
    form = ChatFormat(tokenizer, CHATML)
    conversation = _long(tokenizer, 300)
    whole = form.encode(conversation)
    (cut,), _ = fit_length(form, conversation, None, limit=150, policy="truncate")
    assert np.array_equal(cut.ids[cut.assistant], whole.ids[whole.assistant])
