"""The forms that a conversation may take so that a chat template accepts it and shows all of it, most faithful first.

Each form maps messages and tools to messages and tools; the last ones write tool calls, results and schemas as text,
for templates that know of no tools. Which form was taken is part of a document's notes, so that nobody mistakes the
text for what the model was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from .marks import Message

Tools = Sequence[dict[str, Any]]
Conversation = tuple[list[Message], Tools]  # no tools: empty
Step = Callable[[list[Message], Tools], Conversation]


def null_contents(messages: list[Message], tools: Tools) -> Conversation:
    """Give messages that only call tools the content null: some templates look for it."""
    return [{**m, "content": None} if m.get("tool_calls") and not m["content"] else m for m in messages], tools


def text_arguments(messages: list[Message], tools: Tools) -> Conversation:
    """Give arguments as JSON text, as the OpenAI API does."""
    return [_each_call(m, _text_call) if m.get("tool_calls") else m for m in messages], tools


def single_calls(messages: list[Message], tools: Tools) -> Conversation:
    """Give each call a message of its own, followed by its result, and an id of nine letters and digits."""
    made: list[Message] = []
    waiting: dict[str, Message] = {}  # calls whose results have not come yet, by their own ids
    known: dict[str, str] = {}
    for m in messages:
        if m["role"] == "tool" and waiting:
            was = m.get("tool_call_id")
            was = was if was in waiting else next(iter(waiting))
            made += [waiting.pop(was), {**m, "tool_call_id": known[was]}]
            continue
        made += waiting.values()
        waiting = {}
        for n, call in enumerate(m.get("tool_calls") or []):
            known[call["id"]] = f"call{len(known):05d}"
            waiting[call["id"]] = {
                **m,
                "content": m["content"] if n == 0 else "",
                "tool_calls": [{**call, "id": known[call["id"]]}],
            }
        if not m.get("tool_calls"):
            made.append(m)
    return [*made, *waiting.values()], tools


def joined_system(messages: list[Message], tools: Tools) -> Conversation:
    """Put the system's words before the first user's."""
    system = [m["content"] for m in messages if m["role"] == "system" and m["content"]]
    others = [m for m in messages if m["role"] != "system"]
    first = next((i for i, m in enumerate(others) if m["role"] == "user"), None)
    if not system or first is None:
        return messages, tools
    words = "\n\n".join([*system, others[first]["content"]])
    return [*others[:first], {**others[first], "content": words}, *others[first + 1 :]], tools


def tools_as_text(messages: list[Message], tools: Tools) -> Conversation:
    """Write schemas, calls and results as text within system's, user's and assistant's messages, those in turn."""
    made: list[Message] = []
    if tools:
        words = "\n".join(["# Tools", "", "You may call these functions:", *(_json(tool) for tool in tools)])
        made.append({"role": "system", "content": words})
    for m in messages:
        role = "user" if m["role"] == "tool" else m["role"]
        content = _said(m)
        if made and made[-1]["role"] == role:
            made[-1] = {**made[-1], "content": f"{made[-1]['content']}\n\n{content}".strip()}
        else:
            made.append({"role": role, "content": content})
    return made, ()


def _said(m: Message) -> str:
    if m["role"] == "tool":
        return f"<tool_response>\n{m['content']}\n</tool_response>"
    parts = [m["content"]] if m["content"] else []
    for call in m.get("tool_calls") or []:
        said = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        parts.append(f"<tool_call>\n{_json(said)}\n</tool_call>")
    return "\n".join(parts)


_SINGLE = "each tool call has a message of its own"
_JOINED = "the system's words stand in the first user message"
_TEXT = "tools and their calls are written as text"

FORMS: tuple[tuple[str, tuple[Step, ...]], ...] = (
    ("", ()),
    ("", (null_contents,)),
    ("", (text_arguments,)),
    ("", (text_arguments, null_contents)),
    (_SINGLE, (single_calls,)),
    (_SINGLE, (single_calls, text_arguments)),
    (_JOINED, (joined_system,)),
    (_JOINED, (joined_system, text_arguments)),
    (f"{_SINGLE}, {_JOINED}", (single_calls, joined_system, text_arguments)),
    (_TEXT, (tools_as_text,)),
    (f"{_TEXT}, {_JOINED}", (tools_as_text, joined_system)),
)


def shaped(messages: list[Message], tools: Tools, steps: Sequence[Step]) -> Conversation:
    """Apply a form's steps."""
    for step in steps:
        messages, tools = step(messages, tools)
    return messages, tools


def _each_call(message: Message, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Message:
    return {**message, "tool_calls": [change(call) for call in message["tool_calls"]]}


def _text_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    if isinstance(function["arguments"], str):
        return call
    return {**call, "function": {**function, "arguments": _json(function["arguments"])}}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
