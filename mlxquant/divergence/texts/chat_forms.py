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
Reshape = Callable[[list[Message], Tools], Conversation]
GREETING = "Hello."


def null_contents(messages: list[Message], tools: Tools) -> Conversation:
    """Give messages that only call tools the content null: some templates look for it."""
    return [{**m, "content": None} if m.get("tool_calls") and not m["content"] else m for m in messages], tools


def text_arguments(messages: list[Message], tools: Tools) -> Conversation:
    """Give arguments as JSON text, as the OpenAI API does."""
    return [_each_call(m, _text_call) if m.get("tool_calls") else m for m in messages], tools


def single_calls(messages: list[Message], tools: Tools) -> Conversation:
    """Give each call a message of its own, followed by its result, and an id of nine letters and digits."""
    reshaped: list[Message] = []
    waiting: dict[str, Message] = {}  # calls whose results have not come yet, by their own ids
    known: dict[str, str] = {}
    for m in messages:
        if m["role"] == "tool" and waiting:
            own_id = m.get("tool_call_id")
            own_id = own_id if own_id in waiting else next(iter(waiting))
            reshaped += [waiting.pop(own_id), {**m, "tool_call_id": known[own_id]}]
            continue
        reshaped += waiting.values()
        waiting = {}
        for n, call in enumerate(m.get("tool_calls") or []):
            known[call["id"]] = f"call{len(known):05d}"
            waiting[call["id"]] = {
                **m,
                "content": m["content"] if n == 0 else "",
                "tool_calls": [{**call, "id": known[call["id"]]}],
            }
        if not m.get("tool_calls"):
            reshaped.append(m)
    return [*reshaped, *waiting.values()], tools


def named_ids(messages: list[Message], tools: Tools) -> Conversation:
    """Give calls ids that tell the function's name, as Kimi has them: all that its template shows of a name."""
    known: dict[str, str] = {}
    reshaped: list[Message] = []
    for m in messages:
        for call in m.get("tool_calls") or []:
            known[call["id"]] = f"functions.{call['function']['name']}:{len(known)}"
        m = _each_call(m, lambda call: {**call, "id": known[call["id"]]}) if m.get("tool_calls") else m
        reshaped.append({**m, "tool_call_id": known.get(m.get("tool_call_id", ""), "")} if m["role"] == "tool" else m)
    return reshaped, tools


def joined_system(messages: list[Message], tools: Tools) -> Conversation:
    """Put the system's words before the first user's."""
    system = [m["content"] for m in messages if m["role"] == "system" and m["content"]]
    others = [m for m in messages if m["role"] != "system"]
    first = next((i for i, m in enumerate(others) if m["role"] == "user"), None)
    if not system or first is None:
        return messages, tools
    words = "\n\n".join([*system, others[first]["content"]])
    return [*others[:first], {**others[first], "content": words}, *others[first + 1 :]], tools


def in_turns(messages: list[Message], tools: Tools) -> Conversation:
    """Let users and assistants speak in turn: neighbours of one role are joined, and a user begins."""
    reshaped: list[Message] = []
    for m in messages:
        if m["role"] == "assistant" and all(before["role"] == "system" for before in reshaped):
            reshaped.append({"role": "user", "content": GREETING})
        before = reshaped[-1] if reshaped else {}
        if before.get("role") == m["role"] != "tool" and not before.get("tool_calls"):
            reshaped[-1] = {**m, "content": f"{before['content']}\n\n{m['content']}".strip()}
        else:
            reshaped.append(m)
    return reshaped, tools


def schemas_as_text(messages: list[Message], tools: Tools) -> Conversation:
    """Write the tools' schemas into the system's words."""
    if not tools:
        return messages, tools
    words = "\n".join(["# Tools", "", "You may call these functions:", *(_json(tool) for tool in tools)])
    system = [m["content"] for m in messages[:1] if m["role"] == "system"]
    return [{"role": "system", "content": "\n\n".join([words, *system])}, *messages[len(system) :]], ()


def tools_as_text(messages: list[Message], tools: Tools) -> Conversation:
    """Write schemas, calls and results as text within system's, user's and assistant's messages, those in turn."""
    reshaped, _ = schemas_as_text(messages, tools)
    reshaped = [{"role": "user" if m["role"] == "tool" else m["role"], "content": _text_of(m)} for m in reshaped]
    return in_turns(reshaped, ())


def _text_of(m: Message) -> str:
    if m["role"] == "tool":
        return f"<tool_response>\n{m['content']}\n</tool_response>"
    parts = [m["content"]] if m["content"] else []
    for call in m.get("tool_calls") or []:
        words = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        parts.append(f"<tool_call>\n{_json(words)}\n</tool_call>")
    return "\n".join(parts)


_SINGLE = "each tool call has a message of its own"
_IDS = "tool calls have ids that tell the function's name"
_SCHEMAS = "the tools' schemas stand in the system message"
_TEXT = "tools and their calls are written as text"
_JOINED = "the system's words stand in the first user message"
_TURNS = f"neighbours of one role are joined, and a user begins, with {GREETING!r} if need be"
_CALLS: tuple[tuple[str, tuple[Reshape, ...]], ...] = (
    ("", ()),
    ("", (null_contents,)),
    ("", (text_arguments,)),
    ("", (text_arguments, null_contents)),
    (_SINGLE, (single_calls,)),
    (_SINGLE, (single_calls, text_arguments)),
    (_IDS, (named_ids,)),
)
_CALLS_WITHOUT_SCHEMAS = tuple(
    ("; ".join(filter(None, (note, _SCHEMAS))), (schemas_as_text, *steps)) for note, steps in _CALLS
)
_ROLES: tuple[tuple[str, tuple[Reshape, ...]], ...] = (
    ("", ()),
    (_TURNS, (in_turns,)),
    (_JOINED, (joined_system,)),
    (f"{_JOINED}; {_TURNS}", (joined_system, in_turns)),
)
# Each form: its note and its steps, in the order in which forms are tried: roles are reshaped before schemas are
# written as text, and schemas before calls are.
FORMS: tuple[tuple[str, tuple[Reshape, ...]], ...] = tuple(
    ("; ".join(filter(None, (note_of_calls, note_of_roles))), (*calls, *roles))
    for ways in (_CALLS, _CALLS_WITHOUT_SCHEMAS, ((_TEXT, (tools_as_text,)),))
    for note_of_roles, roles in _ROLES
    for note_of_calls, calls in ways
)


def shaped(messages: list[Message], tools: Tools, steps: Sequence[Reshape]) -> Conversation:
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
