"""Lines of a data file: what each may hold, and what is wrong with those that hold something else.

A line is a JSON object with `messages` (OpenAI's form: role, content, tool_calls) or `text`, and optionally `tools`
(a list of schemas, or the name of one in a file of them), `slices` and `id`. Other keys are let be. Conversations
come out in one form: contents are text, arguments are parsed, every call has an id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .marks import Message

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
          "function": "tool"}  # fmt: skip
_WHAT = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}


@dataclass(frozen=True, slots=True)
class Line:
    """One document as its line has it: either `messages` or `text`."""

    number: int
    id: str
    messages: list[Message] | None
    text: str | None
    tools: list[dict[str, Any]]
    slices: tuple[str, ...]


class LineFault(ValueError):
    """What is wrong with a line: expected, found."""


def parse_line(raw: str, number: int, named_tools: Mapping[str, Any]) -> Line:
    """Read one line. Raises LineFault."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LineFault(f"is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise LineFault(f"must be a JSON table, found {what(record)}")
    if ("messages" in record) == ("text" in record):
        keys = ", ".join(list(record)[:6]) or "no keys"
        raise LineFault(f'must have either "messages" or "text", found {keys}')
    text = record.get("text")
    if "text" in record and not isinstance(text, str):
        raise LineFault(f'"text" must be text, found {what(text)}')
    messages = None if "text" in record else parse_messages(record["messages"])
    name = record.get("id", f"line-{number}")
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise LineFault(f'"id" must be text, found {what(name)}')
    return Line(number, str(name), messages, text, _tools(record.get("tools"), named_tools), _slices(record))


def parse_messages(value: Any) -> list[Message]:
    """Check a conversation and bring it into one form. Raises LineFault."""
    if not isinstance(value, list) or not value:
        raise LineFault(f'"messages" must be a list of messages, found {what(value)}')
    messages: list[Message] = []
    calls = 0
    for i, given in enumerate(value):
        try:
            messages.append(_message(given, calls))
        except LineFault as fault:
            raise LineFault(f"message {i + 1}: {fault}") from None
        calls += len(messages[-1].get("tool_calls", ()))
    return messages


def _message(given: Any, calls: int) -> Message:
    if not isinstance(given, dict):
        raise LineFault(f"must be a table, found {what(given)}")
    role = _ROLES.get(given["role"]) if isinstance(given.get("role"), str) else None
    if role is None:
        raise LineFault(f'"role" must be one of {", ".join(_ROLES)}; found {json.dumps(given.get("role"))}')
    made = {**given, "role": role, "content": _content(given.get("content"))}
    given_calls = given.get("tool_calls")
    made.pop("tool_calls", None)
    if given_calls:
        if not isinstance(given_calls, list):
            raise LineFault(f'"tool_calls" must be a list, found {what(given_calls)}')
        made["tool_calls"] = [_call(call, calls + n) for n, call in enumerate(given_calls)]
    return made


def _content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else None
    if parts is None or not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        raise LineFault(f'"content" must be text, null or a list of text parts, found {what(content)}')
    return "".join(part["text"] for part in parts)


def _call(call: Any, number: int) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise LineFault(f'a tool call must have "function" with "name" and "arguments", found {json.dumps(call)[:80]}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):  # as the API writes them; what does not parse was said so, and stays as it is
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    elif arguments is None:
        arguments = {}
    elif not isinstance(arguments, dict):
        raise LineFault(f"arguments of a call must be a table or JSON text, found {what(arguments)}")
    given = call.get("id")
    name = given if isinstance(given, str) and given else f"call{number:05d}"
    return {"id": name, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tools(tools: Any, named: Mapping[str, Any]) -> list[dict[str, Any]]:
    if isinstance(tools, str):
        if tools not in named:
            raise LineFault(
                f'"tools" names {json.dumps(tools)}, but no JSON file beside this one, with "tool" in its name, has it'
            )
        tools = named[tools]
    if not isinstance(tools, (list, type(None))):
        raise LineFault(f'"tools" must be a list of schemas or the name of one, found {what(tools)}')
    made = []
    for tool in tools or []:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise LineFault(f'a tool must have "function" with "name" and "parameters", found {json.dumps(tool)[:80]}')
        made.append(tool if "function" in tool else {"type": "function", "function": function})
    return made


def _slices(record: Mapping[str, Any]) -> tuple[str, ...]:
    slices = record.get("slices", [])
    slices = [slices] if isinstance(slices, str) else slices
    if not isinstance(slices, list) or not all(isinstance(name, str) and name for name in slices):
        raise LineFault(f'"slices" must be a list of names, found {json.dumps(slices)[:80]}')
    return tuple(dict.fromkeys(slices))


def what(value: Any) -> str:
    """Name a JSON value's kind.

    >>> what([]), what(None)
    ('an empty list', 'nothing')
    """
    if value is None:
        return "nothing"
    return _WHAT.get(type(value), "something else") if value != [] else "an empty list"
