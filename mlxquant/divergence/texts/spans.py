"""Stretches of a document that are slices of their own: tool calls, JSON, numbers, what the model itself would write.

Found in the text, by what it says: numbers by their digits, JSON by parsing, tool calls by where the conversation's
calls stand in the rendered text, or in plain text by the markup that mlx-lm's own tool parsers look for. Schemas of
tools are JSON too, but given and not written by the model: they are a slice of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .marks import MarkedPiece
from .render import Chat, Rendered
from .tokens import Encoded

Span = tuple[int, int]
IN_TOOL_CALL, IN_JSON, IN_NUMERIC, IN_ASSISTANT, IN_SCHEMA = (
    "in:tool_call", "in:json", "in:numeric", "in:assistant", "in:tool_schema",
)  # fmt: skip

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
# How models mark calls, as mlx-lm 0.32.2's tool_parsers/ read them; a lone opener counts to the end of its line.
_MARKUP = re.compile(
    r"<tool_call>.*?</tool_call>"
    r"|<\|tool_call>.*?<tool_call\|>"
    r"|<(longcat_tool_call|minimax:tool_call|atem:function_calls|start_function_call|function_calls)>.*?</\1>"
    r"|<start_function_call>.*?<end_function_call>"
    r"|<\|tool_calls?(?:_section)?_(?:start|begin)\|>.*?<\|tool_calls?(?:_section)?_end\|>"
    r"|<｜tool▁calls▁begin｜>.*?<｜tool▁calls▁end｜>"
    r"|\[TOOL_CALLS\][^\n]*"
    r"|<\|channel\|>commentary to=functions\..*?<\|call\|>",
    re.DOTALL,
)
# What may stand between a call's words and its surroundings: tags, brackets, quotes, and the keys of JSON forms
_BEFORE = re.compile(r"(?:<[^<>\n]{1,60}>|\[[A-Z_]+\]|[\s\[{\"'(:,=.]|\bto=|\bfunctions?\b|\bname\b|\btype\b)*\Z")
_AFTER = re.compile(r"(?:</[^<>\n]{1,60}>|<[^<>\n]{0,60}end[^<>\n]{0,60}>|<\|call\|>|<\w+\|>|[\s\[\]{}\"'`),])*")
_OPENING = re.compile(r"[{\[]\s*[\"{\[\d\-tfn]")
_TOO_DEEP = re.compile(r"(?:[{\[]\s*){100,}")
_TAGS = re.compile(r"(?:<[^<>\n]{1,60}>|[\s\"':=>])*")


def text_spans(text: str, written_calls: Iterable[Span] | None = None) -> dict[str, list[Span]]:
    """Spans of plain text; `written_calls` where the conversation's calls are known, else they are sought by markup."""
    calls = [m.span() for m in _MARKUP.finditer(text)] if written_calls is None else list(written_calls)
    json_spans: list[Span] = []
    schemas: list[Span] = []
    for span, value in json_values(text):
        (schemas if _is_schema(value) else json_spans).append(span)
    numbers = [m.span() for m in _NUMBER.finditer(text)]
    return {IN_TOOL_CALL: calls, IN_JSON: json_spans, IN_SCHEMA: schemas, IN_NUMERIC: numbers}


def rendered_spans(rendered: Rendered, chat: Chat) -> dict[str, list[Span]]:
    """Spans of a rendered conversation."""
    calls = list(call_spans(rendered, chat))
    answers = [piece for piece in rendered.pieces if piece.kind == "assistant"]
    for piece in answers:  # calls that were recorded as text
        calls += [m.span() for m in _MARKUP.finditer(rendered.text, piece.start, piece.end)]
    written = [(piece.start, piece.end) for piece in answers] + calls
    closing = chat.closing.rstrip()
    ends = [(end, end + len(closing)) for _, end in written if closing and rendered.text.startswith(closing, end)]
    return {**text_spans(rendered.text, calls), IN_ASSISTANT: written + ends}


def call_spans(rendered: Rendered, chat: Chat) -> Iterator[Span]:
    """Where each tool call stands, its markup included: from before its name to after its last argument."""
    text, pieces = rendered.text, rendered.pieces
    parts = sorted((p for p in pieces if p.call >= 0), key=lambda p: (p.message, p.call))
    others = sorted((p.start, p.end) for p in pieces if p.call < 0)
    reached = 0
    for _, group in groupby(parts, key=lambda p: (p.message, p.call)):
        start, end = _widened(text, _core(text, list(group)), others, chat)
        start = max(start, min(reached, end))  # what stands between two calls belongs to the first
        if start < end:
            yield start, end
        reached = end


def _core(text: str, parts: Sequence[MarkedPiece]) -> Span:
    """From a call's name to the end of its arguments: JSON to its closing bracket, else the last marked word."""
    start = min(p.start for p in parts)
    end = max(p.end for p in parts)
    name_end = next((p.end for p in parts if p.kind == "name"), start)
    bracket = re.compile(r"[{\[]").search(text, name_end, name_end + 80)
    if bracket and (span := _parsed(text, bracket.start())) and span[0] >= end:
        return start, span[0]
    if parts[-1].kind == "key":  # a last argument that is no text, such as <parameter=count>\n3\n</parameter>
        tags = _TAGS.match(text, end)
        value = tags.end() if tags else end
        parsed = _parsed(text, value)
        end = parsed[0] if parsed else value + len(re.split(r"[\s<>]", text[value : value + 40], maxsplit=1)[0])
    return start, end


def _widened(text: str, core: Span, others: Sequence[Span], chat: Chat) -> Span:
    """Add the markup on both sides, no further than other messages' words or what closes the message."""
    start, end = core
    floor = max((e for _, e in others if e <= start), default=0)
    ceiling = min((s for s, _ in others if s >= end), default=len(text))
    closing = chat.closing.strip()
    if closing and (cut := text.find(closing, end, ceiling)) >= 0:
        ceiling = cut
    before = _BEFORE.search(text, max(floor, start - 200), start)
    begin = _beyond(chat.answer_opening, text, before.start(), start) if before else start
    for bracket in re.finditer(r"[{\[]", text[begin:start]):  # JSON around the call: {"name": …, "id": …}
        if (parsed := _parsed(text, begin + bracket.start())) and end < parsed[0] <= ceiling:
            end = parsed[0]
            break
    after = _AFTER.match(text, end, ceiling)
    wide = text[begin : after.end() if after else end]
    lead = begin + len(wide) - len(wide.lstrip())
    return lead, lead + len(wide.strip())


def _beyond(opening: str, text: str, begin: int, end: int) -> int:
    """Leave out what opens any answer, or the part of it that stands at the beginning of the markup."""
    for length in range(min(len(opening), end - begin), 0, -1):
        if text.startswith(opening[-length:], begin):
            return begin + length
    return begin


def json_values(text: str) -> Iterator[tuple[Span, Any]]:
    """Outermost JSON objects and arrays in a text, in order: not {} or [] or [1], which prose and code have too."""
    at = 0
    while opening := _OPENING.search(text, at):
        at = opening.start() + 1
        if nested := _TOO_DEEP.match(text, opening.start()):
            at = nested.end()
            continue
        if parsed := _parsed(text, opening.start()):
            end, value = parsed
            if isinstance(value, dict) or len(value) > 1 or (value and isinstance(value[0], (dict, list))):
                yield (opening.start(), end), value
                at = end


def _parsed(text: str, start: int) -> tuple[int, Any] | None:
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return end, value


def _is_schema(value: Any) -> bool:
    """Whether a value describes tools rather than calling them."""
    if isinstance(value, list):
        return bool(value) and all(_is_schema(each) for each in value)
    if not isinstance(value, dict):
        return False
    function = value.get("function", value)
    return isinstance(function, dict) and "name" in function and "parameters" in function and "arguments" not in value


def token_masks(encoded: Encoded, spans: dict[str, list[Span]], length: int) -> dict[str, NDArray[np.bool_]]:
    """Which tokens have a character within the spans of each name; names without any token are left out. (n,)."""
    masks = {}
    for name, stretches in spans.items():
        edges = np.zeros(length + 2, np.int64)
        for start, end in stretches:
            edges[start] += 1
            edges[end] -= 1
        inside = np.concatenate([[0], np.cumsum(np.cumsum(edges) > 0)])
        mask = (inside[encoded.end] - inside[encoded.start]) > 0
        if mask.any():
            masks[name] = mask
    return masks
