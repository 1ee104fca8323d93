"""A user's own suite: a JSONL file of items in the form that this project's own have.

A line is ``{"messages": […], "score": {"kind": …}}`` and, where wanted, ``id``, ``tools``, ``slices``, ``max_tokens``
and ``cluster`` (what several items share: they count as one observation for intervals). Messages and tools are as in
OpenAI's API. Kinds of score and their keys are in `scoring.KINDS`. BFCL's question files are known by their keys and
read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...words.strict_json import read_json
from ...words.text import listed, printable
from ..items import Item, Questions
from .bfcl import is_bfcl, read_bfcl
from .scores_text import schema_faults
from .scoring import faults, score_of
from .table_lines import read_tables

MAX_TOKENS = 512
_MOST_TOKENS = 1 << 31
_KEYS = ("id", "messages", "tools", "slices", "max_tokens", "score", "cluster")
_ROLES = ("system", "developer", "user", "assistant", "tool")


def read_suite(path: Path, *, max_tokens: int | None = None) -> Questions:
    """Read a suite, this project's form or BFCL's; `max_tokens` replaces every item's own.

    Raises DataError with every fault of every line.
    """
    rows = read_tables(path)
    if is_bfcl(rows[0][1]):
        return read_bfcl(path, max_tokens=max_tokens)
    problems: list[str] = []
    items: list[Item] = []
    lines: dict[str, int] = {}
    for number, row in rows:
        problems_of_row = _faults(row)
        name = printable(str(row.get("id", f"line-{number}")))
        if name in lines:
            problems_of_row.append(f'"id" {name} stands on line {lines[name]} already')
        lines.setdefault(name, number)
        problems += [f"{path}, line {number}: {fault}" for fault in problems_of_row]
        if not problems:
            items.append(_item(row, name, path.stem, max_tokens))
    if problems:
        raise DataError(listed(problems))
    return Questions(path.stem, tuple(items), score_of, {"format": "mlxquant", "file": path.name})


def _item(row: Mapping[str, Any], name: str, suite: str, max_tokens: int | None) -> Item:
    slices = row.get("slices", [])
    cluster = row.get("cluster")
    return Item(
        name,
        suite,
        tuple(_as_the_api_has_it(message) for message in row["messages"]),
        tuple(dict.fromkeys(map(printable, [slices] if isinstance(slices, str) else slices))),
        tuple(row.get("tools") or ()),
        max_tokens or row.get("max_tokens", MAX_TOKENS),
        row["score"],
        str(cluster) if cluster is not None else None,
    )


def _faults(row: Mapping[str, Any]) -> list[str]:
    problems = [f'has no key "{key}"; known are {", ".join(_KEYS)}' for key in row if key not in _KEYS]
    problems += faults(row["score"]) if "score" in row else ['needs "score": how a program judges the reply']
    problems += _message_faults(row.get("messages"))
    slices = row.get("slices", [])
    if not isinstance(slices, str) and not (isinstance(slices, list) and all(isinstance(s, str) and s for s in slices)):
        problems.append('"slices" must be a list of names')
    limit = row.get("max_tokens", 1)
    if type(limit) is not int or not 0 < limit < _MOST_TOKENS:
        problems.append(
            f'"max_tokens" must be a whole number above 0, and below {_MOST_TOKENS}, found {str(limit)[:40]}'
        )
    tools = row.get("tools") or []
    if not isinstance(tools, list) or not all(_is_tool(tool) for tool in tools):
        problems.append('"tools" must be a list of {"type": "function", "function": {"name": …, "parameters": …}}')
    else:
        for function in (tool["function"] for tool in tools):
            wrong = schema_faults(function.get("parameters") or {})
            problems += [f'"tools": {function["name"]}: {fault.replace("schema", "parameters", 1)}' for fault in wrong]
    return problems


def _as_the_api_has_it(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write arguments of earlier calls as text, as servers want them in a history."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        arguments = call["function"]["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append({"type": "function", **call, "function": {**call["function"], "arguments": text}})
    return {**message, "tool_calls": calls}


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) and isinstance(call.get("id"), str) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return False
    arguments = function.get("arguments")
    try:
        return isinstance(read_json(arguments) if isinstance(arguments, str) else arguments, dict)
    except ValueError:
        return False


def _is_tool(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _message_faults(messages: Any) -> list[str]:
    if not isinstance(messages, list) or not messages:
        return ['needs "messages": a list of {"role": …, "content": …}']
    for n, message in enumerate(messages, 1):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            return [f'message {n}: "role" must be one of {", ".join(_ROLES)}']
        if not isinstance(message.get("content"), (str, list)) and not message.get("tool_calls"):
            return [f'message {n}: "content" must be text']
        if any(not _is_call(call) for call in message.get("tool_calls") or ()):
            return [
                f'message {n}: a tool call must have "id" and "function" with "name" and "arguments" as a JSON table'
            ]
    if messages[-1]["role"] == "assistant":
        return ["the last message is the assistant's; nothing is asked"]
    return []
