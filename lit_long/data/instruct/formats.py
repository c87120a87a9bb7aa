"""Rows of chat datasets as messages: ``messages``, ShareGPT, Alpaca, prompt and completion."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from lit_long.data.instruct.chat import BadExampleError
from lit_long.errors import UserError

Format = Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion"]
_ROLES = {
    "human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "bing": "assistant", "model": "assistant", "assistant": "assistant", "system": "system", "tool": "tool",
    "observation": "tool", "function_response": "tool",
}  # fmt: skip
_COLUMNS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
}


def detect(row: Mapping[str, Any], where: str) -> str:
    """The format of a row, by its columns.

    Raises:
        UserError: none of the known ones.
    """
    for name, columns in _COLUMNS.items():
        if all(column in row for column in columns):
            return name
    known = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in _COLUMNS.items())
    raise UserError(
        f"{where}: columns {sorted(row)} are of no known chat format ({known}); rename them, or give format"
    )


def to_messages(row: Mapping[str, Any], kind: str) -> tuple[list[dict[str, Any]], Any]:
    """Messages of a row, and its tools (None without).

    Args:
        row: columns by name.
        kind: a format other than ``auto``.

    Raises:
        BadExampleError: a column is missing or is not what it should be.
    """
    missing = [column for column in _COLUMNS[kind] if row.get(column) is None]
    if missing:
        raise BadExampleError(f"no {missing[0]!r} in it, which the format {kind} needs")
    tools = _json(row.get("tools")) or None
    if kind == "messages":
        return _list(row["messages"], "role", "content"), tools
    if kind == "sharegpt":
        messages = _list(row["conversations"], "from", "value")
        if row.get("system"):
            messages = [{"role": "system", "content": row["system"]}, *messages]
        return messages, tools
    if kind == "alpaca":
        question = str(row["instruction"])
        if row.get("input"):
            question = f"{question}\n\n{row['input']}"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
        if row.get("system"):
            messages = [{"role": "system", "content": row["system"]}, *messages]
        return messages, tools
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}], tools
    return _list(prompt, "role", "content") + _list(completion, "role", "content"), tools


def _list(value: Any, role: str, content: str) -> list[dict[str, Any]]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, Mapping) for item in value):
        raise BadExampleError(f"a conversation is a list of messages, found {type(value).__name__}")
    messages = []
    for number, item in enumerate(value):
        # ShareGPT in the columns of messages, and the other way round, are common
        name = str(item.get(role, item.get("role", item.get("from"))))
        if name.lower() not in _ROLES:
            raise BadExampleError(f"message {number} has the role {name!r}; known are {', '.join(sorted(_ROLES))}")
        text = item.get(content, item.get("content", item.get("value")))
        message: dict[str, Any] = {"role": _ROLES[name.lower()], "content": _text(text, number)}
        if calls := _json(item.get("tool_calls")):
            message["tool_calls"] = _parsed_arguments(calls)
        message |= {key: item[key] for key in ("name", "tool_call_id", "reasoning_content") if item.get(key)}
        messages.append(message)
    return messages


def _parsed_arguments(calls: Any) -> Any:
    """Calls with arguments as values: chat APIs write JSON texts, which a template would quote a second time."""
    if not isinstance(calls, (list, tuple)):
        raise BadExampleError(f"tool_calls is a list of calls, found {type(calls).__name__}")
    found = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
            call = {**call, "function": {**function, "arguments": _json(function["arguments"])}}
        found.append(call)
    return found


def _text(content: Any, number: int) -> Any:
    """Text of a content; parts of type text are joined."""
    if isinstance(content, (list, tuple)):
        kinds = {part.get("type") for part in content if isinstance(part, Mapping)}
        if kinds != {"text"}:
            raise BadExampleError(
                f"message {number} has parts of type {sorted(map(str, kinds))}; only text is trained on"
            )
        return "".join(str(part["text"]) for part in content)
    return content


def _json(value: Any) -> Any:
    """Nested values come as JSON texts where a table has no column type for them."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadExampleError(f"tools, tool_calls or their arguments are no JSON: {error}") from error
