"""Read one event of a streamed completion: JSON of a stranger into typed fields, or an error of one line.

What OpenAI's API says of an event is checked here, in one place, before anything is made of it: who reads an `Event`
needs no further doubt. Absent and null fields are absent; a field of another type, a count that can be none, or JSON
that is nested deeper than a completion ever is, is a `StreamError`. Where servers are known to differ without being
wrong (content as a list of parts, arguments as a table, `choices: null`), the event is read and `ways` names what was
different, for the record. Halves of surrogate pairs pass, since a server may send a pair in two events: who puts them
together calls `strict_json.whole`. Nothing here knows of time or of the connection.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..words.strict_json import read_json
from .wire import LINE, StreamError, shown

_MOST = 1 << 48  # no count of tokens is near it
_WORD = 200  # characters of a finish reason; a model's name may have ten times as many
# What other APIs call the reasons of OpenAI's, in small letters: of Anthropic, Cohere, Gemini, TGI, Mistral and others
_REASONS = {
    "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop", "complete": "stop",
    "stop_str": "stop",
    "max_tokens": "length", "max_length": "length", "model_length": "length", "max_new_tokens": "length",
    "function_call": "tool_calls", "tool_use": "tool_calls", "tool_call": "tool_calls",
}  # fmt: skip
# Types of a part of content that hold reasoning, and the keys that hold the text of any part
_THINKING = ("thinking", "reasoning", "reasoning.text", "reasoning_text")
_PART_TEXTS = ("text", "thinking", "reasoning", "refusal", "content")


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of a tool call, as it came; what it belongs to is for whoever gathers calls to say."""

    index: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """What one event brought. `usage` has those of prompt_tokens, completion_tokens, cached_tokens that it counts."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None
    model: str | None = None
    ways: tuple[str, ...] = ()
    at_once: bool = False  # the whole answer in one, so that none of its tokens can be timed


def read_event(data: str, where: str) -> Event:
    """Read an event's data. Raises StreamError for what is none, and where the server reports an error."""
    try:
        event = read_json(data, halves=True)
    except ValueError as error:
        text = f"{where}: an event of the stream is no JSON: {shown(data, 80)!r} ({shown(error, 80)})"
        raise StreamError("malformed", text) from None
    if not isinstance(event, dict):
        raise _malformed(where, "an event of the stream is no table", data)
    if (reported := _error_in(event)) is not None:
        raise StreamError("server", f"{where}: the server reports an error: {error_text(reported)}")
    ways: dict[str, None] = {}
    choice = _first_choice(event, where, ways)
    key = next((key for key in ("delta", "message") if choice.get(key) is not None), None)
    delta = choice if key is None else choice[key]
    if not isinstance(delta, dict):
        raise _malformed(where, "`delta` of an event is no table", delta)
    text, thought = _texts(delta, ("content", "text", "refusal"), where, ways)
    reasoning = "".join(_texts(delta, ("reasoning_content", "reasoning", "thinking"), where, ways))
    return Event(
        text,
        reasoning or thought,
        tuple(_calls(delta, where, ways)),
        _reason(choice, where, ways),
        _usage(event, where),
        _word(event, "model", where, 10 * _WORD),
        tuple(ways),
        key == "message",
    )


def error_text(error: Any) -> str:
    """What a server's error says, as a short line."""
    message = error.get("message", error) if isinstance(error, dict) else error
    return shown(message if isinstance(message, str) else json.dumps(message, ensure_ascii=False))


def _error_in(event: Mapping[str, Any]) -> Any:
    """The error that an event is, in the forms of OpenAI, vLLM, TGI and FastAPI; None where it is none."""
    if event.get("error") is not None:
        return event["error"]
    if event.get("object") == "error" or event.get("type") == "error":
        return event.get("message") or dict(event)
    if "choices" not in event and "usage" not in event:
        return event.get("detail") or (event.get("message") if "code" in event or "status" in event else None)
    return None


def _reason(choice: Mapping[str, Any], where: str, ways: dict[str, None]) -> str | None:
    """The finish reason in OpenAI's words; None where there is none yet, which some write as ""."""
    reason = _word(choice, "finish_reason", where, _WORD) or None
    known = _REASONS.get(reason.lower(), reason) if reason else None
    if known != reason and reason != "function_call":  # that one is said with the call
        ways[f"says finish_reason `{shown(reason, 40)}` for `{known}`"] = None
    return known


def _first_choice(event: Mapping[str, Any], where: str, ways: dict[str, None]) -> Mapping[str, Any]:
    """The choice of the one answer that was asked for; empty where the event has none."""
    choices = event.get("choices", [])
    if choices is None:
        ways["sends `choices` as null"] = None
        return {}
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _malformed(where, "`choices` of an event is no list of tables", event.get("choices"))
    first = [choice for choice in choices if choice.get("index") in (0, None)]
    if len(first) < len(choices):
        ways["sends several answers at once, of which the first is read"] = None
    if len(first) > 1:
        raise _malformed(where, "an event has two choices of one index", choices)
    return first[0] if first else {}


def _texts(delta: Mapping[str, Any], keys: Sequence[str], where: str, ways: dict[str, None]) -> tuple[str, str]:
    """The first text of these that is there, and the reasoning within it; a list of parts is put together."""
    text = thought = ""
    for key in keys:
        value = delta.get(key)
        if isinstance(value, list):
            ways[f"sends `{key}` as a list of parts"] = None
            parts = [_part(part, key, where) for part in value]
            thought = thought or "".join(part for part, thinks in parts if thinks)
            value = "".join(part for part, thinks in parts if not thinks)
        if key == "refusal" and value and not text:
            ways["sends refusals in a field of their own, which are read as the answer"] = None
        if not isinstance(value, str) and value is not None:
            raise _malformed(where, f"`{key}` of an event is no text", value)
        text = text or value or ""
    return text, thought


def _part(part: Any, key: str, where: str) -> tuple[str, bool]:
    """A part's text, which may stand in parts of its own, and whether it is reasoning."""
    value = part
    if isinstance(part, dict):
        value = next((part[name] for name in _PART_TEXTS if part.get(name) is not None), None)
    if isinstance(value, list):
        value = "".join(_part(inner, key, where)[0] for inner in value)
    if not isinstance(value, str):
        raise _malformed(where, f"a part of `{key}` of an event is no text", part)
    return value, isinstance(part, dict) and part.get("type") in _THINKING


def _calls(delta: Mapping[str, Any], where: str, ways: dict[str, None]) -> Iterator[CallPiece]:
    pieces = delta.get("tool_calls") or []
    if not pieces and delta.get("function_call") is not None:
        ways["sends a call as `function_call`, the API's old form"] = None
        pieces = [{"index": 0, "function": delta["function_call"]}]
    if not isinstance(pieces, list) or not all(isinstance(piece, dict) for piece in pieces):
        raise _malformed(where, "`tool_calls` of an event is no list of tables", pieces)
    for piece in pieces:
        function = piece.get("function")
        function = {} if function is None else function
        if not isinstance(function, dict):
            raise _malformed(where, "`function` of a tool call is no table", function)
        index = piece.get("index")
        if index is not None and type(index) is not int:
            raise _malformed(where, "`index` of a tool call is no whole number", index)
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            ways["sends the arguments of calls as a table in place of text"] = None
            arguments = json.dumps(arguments, ensure_ascii=False)
        if arguments is not None and not isinstance(arguments, str):
            raise _malformed(where, "`arguments` of a tool call is no text", arguments)
        yield CallPiece(index, _word(piece, "id", where) or "", _word(function, "name", where) or "", arguments or "")


def _usage(event: Mapping[str, Any], where: str) -> Mapping[str, int] | None:
    usage = event.get("usage")
    if usage is None:
        return None
    if not isinstance(usage, dict):
        raise _malformed(where, "`usage` of an event is no table", usage)
    details = usage.get("prompt_tokens_details")
    if details is not None and not isinstance(details, dict):
        raise _malformed(where, "`prompt_tokens_details` of an event is no table", details)
    counts = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": (details or {}).get("cached_tokens"),
    }
    for name, count in counts.items():
        if count is not None and (type(count) is not int or not 0 <= count < _MOST):
            raise _malformed(where, f"`{name}` of its usage is no count of tokens", count)
    return {name: count for name, count in counts.items() if count is not None}


def _word(table: Mapping[str, Any], key: str, where: str, most: int = LINE) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or len(value) > most):
        raise _malformed(where, f"`{key}` of an event is no {'short ' if most < LINE else ''}text", value)
    return value


def _malformed(where: str, what: str, value: Any) -> StreamError:
    """The error for a field, with the beginning of what stood there."""
    return StreamError("malformed", f"{where}: {what}: {shown(value, 80)!r}")
