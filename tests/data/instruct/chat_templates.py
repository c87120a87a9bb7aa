"""Chat templates of the families that matter, written anew from their documented formats, and what they must give.

Each conversation is stated twice: as messages, and as (text, is it the assistant's) pieces of the rendered whole.
"""

CHATML = (
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0].content %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}"
    "{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}{{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]"
    "{% elif m.tool_calls is defined %}[TOOL_CALLS] {{ m.tool_calls | tojson }}{{ eos_token }}"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Thinking is shown in the last answer only, as Qwen3 does: an earlier turn is rendered in another way than it was
QWEN3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% set text = m.content.split('</think>')[-1].lstrip('\n') %}"
    "<|im_start|>assistant\n{% if loop.index0 > ns.last %}<think>\n"
    "{{ m.reasoning_content | default('') }}\n</think>\n\n"
    "{% endif %}{{ text }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]",
    "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "<s>", "</s>",
]  # fmt: skip

ONE = [("user", "Who wrote it?"), ("assistant", "Jane Austen, in 1817.")]
TWO = [("system", "Answer from the text."), *ONE, ("user", "And where?"), ("assistant", "In Chawton.\nAt home.")]


def messages(pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def case(template, pairs, pieces):
    return template, messages(pairs), pieces


TOOL_CALL = [{"type": "function", "function": {"name": "find", "arguments": {"word": "sea"}}}]
WITH_TOOL = [
    {"role": "user", "content": "How often is the sea named?"},
    {"role": "assistant", "content": "", "tool_calls": TOOL_CALL},
    {"role": "tool", "content": "12"},
    {"role": "assistant", "content": "Twelve times."},
]
THOUGHT = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nJane."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "At home.", "reasoning_content": "easy"},
]
_SYSTEM = "<|im_start|>system\nYou are helpful.<|im_end|>\n"
CASES = {
    "chatml, default system": case(
        CHATML, ONE,
        [(_SYSTEM + "<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\n", False),
         ("Jane Austen, in 1817.<|im_end|>", True), ("\n", False)],
    ),
    "chatml, two turns": case(
        CHATML, TWO,
        [("<|im_start|>system\nAnswer from the text.<|im_end|>\n", False),
         ("<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\n", False),
         ("Jane Austen, in 1817.<|im_end|>", True),
         ("\n<|im_start|>user\nAnd where?<|im_end|>\n<|im_start|>assistant\n", False),
         ("In Chawton.\nAt home.<|im_end|>", True), ("\n", False)],
    ),
    "llama 3": case(
        LLAMA3, TWO,
        [("<s><|start_header_id|>system<|end_header_id|>\n\nAnswer from the text.<|eot_id|>", False),
         ("<|start_header_id|>user<|end_header_id|>\n\nWho wrote it?<|eot_id|>", False),
         ("<|start_header_id|>assistant<|end_header_id|>\n\n", False), ("Jane Austen, in 1817.<|eot_id|>", True),
         ("<|start_header_id|>user<|end_header_id|>\n\nAnd where?<|eot_id|>", False),
         ("<|start_header_id|>assistant<|end_header_id|>\n\n", False), ("In Chawton.\nAt home.<|eot_id|>", True)],
    ),
    "llama 2": case(
        LLAMA2, TWO,
        [("<s>[INST] <<SYS>>\nAnswer from the text.\n<</SYS>>\n\nWho wrote it? [/INST]", False),
         (" Jane Austen, in 1817. </s>", True), ("<s>[INST] And where? [/INST]", False),
         (" In Chawton.\nAt home. </s>", True)],
    ),
    "mistral": case(
        MISTRAL, [*ONE, *TWO[3:]],
        [("<s>[INST] Who wrote it?[/INST]", False), (" Jane Austen, in 1817.</s>", True),
         ("[INST] And where?[/INST]", False), (" In Chawton.\nAt home.</s>", True)],
    ),
    "mistral, tool": (
        MISTRAL, WITH_TOOL,
        [("<s>[INST] How often is the sea named?[/INST]", False),
         ('[TOOL_CALLS] [{"type": "function", "function": {"name": "find", "arguments": {"word": "sea"}}}]</s>', True),
         ("[TOOL_RESULTS] 12[/TOOL_RESULTS]", False), (" Twelve times.</s>", True)],
    ),
    "qwen 3, thinking of an earlier turn is gone": (
        QWEN3, THOUGHT,
        [("<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n", False), ("Jane.<|im_end|>", True),
         ("\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n", False),
         ("<think>\neasy\n</think>\n\nAt home.<|im_end|>", True), ("\n", False)],
    ),
    "generation marks": case(
        MARKED, TWO,
        [("<|im_start|>system\nAnswer from the text.<|im_end|>\n", False),
         ("<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\n", False),
         ("Jane Austen, in 1817.<|im_end|>", True),
         ("\n<|im_start|>user\nAnd where?<|im_end|>\n<|im_start|>assistant\n", False),
         ("In Chawton.\nAt home.<|im_end|>", True), ("\n", False)],
    ),
}  # fmt: skip
