"""Take a generated text apart as a server does: reasoning, answer, tool calls, and calls that cannot be read.

The tokenizer says how its model thinks and calls (mlx-lm's `TokenizerWrapper`); its own parser reads a call. Unlike
mlx_lm.server 0.32.2, which drops a call that its parser cannot read and breaks off the stream at one that is JSON
without a name or arguments, the text of such a call is kept: it is the damage that one looks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .calls import broken_calls
from .items import ToolCall

# Marks of reasoning (mlx-lm 0.32.2, `tokenizer_utils`)
THINKING = (
    ("<think>", "</think>"), ("<longcat_think>", "</longcat_think>"), ("<|think:start|>", "<|think:end|>"),
    ("<|channel>thought", "<channel|>"), ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
)  # fmt: skip

# What third parties' parsers raise at a text that is no call
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, SyntaxError, RecursionError)


def take_apart(
    text: str, tokenizer: Any, tools: Sequence[Mapping[str, Any]], *, thinking: bool
) -> tuple[str, str, tuple[ToolCall, ...], tuple[str, ...]]:
    """Give answer, reasoning, calls and broken calls of a generated text.

    `thinking` says that the prompt ended within reasoning, so the text begins there.
    """
    reasoning = ""
    if tokenizer.has_thinking:
        text, reasoning = _without_reasoning(text, tokenizer.think_start, tokenizer.think_end, thinking)
    calls: list[ToolCall] = []
    broken: list[str] = []
    if tools and tokenizer.has_tool_calling:
        text, bodies = _without_calls(text, tokenizer.tool_call_start, tokenizer.tool_call_end)
        for body in bodies:
            try:
                found = list(_read(tokenizer.tool_parser(body, list(tools))))
            except _UNREADABLE:
                broken.append(body.strip())
            else:
                calls += found
    if tools:
        broken += broken_calls(text)
    numbered = tuple(ToolCall(c.name, c.arguments, c.id or f"call_{i}") for i, c in enumerate(calls, 1))
    return text, reasoning, numbered, tuple(broken)


def reasoning_within(text: str) -> tuple[str, str]:
    """Answer and reasoning of a text whose tokenizer is not at hand, by the marks that mlx-lm knows.

    An end without its beginning means that the prompt ended within reasoning.
    """
    for start, end in THINKING:
        if start in text or end in text:
            return _without_reasoning(text, start, end, start not in text)
    return text, ""


def _without_reasoning(text: str, start: str, end: str, thinking: bool) -> tuple[str, str]:
    """Answer and reasoning. Reasoning that never ends leaves no answer."""
    if not thinking:
        before, found, text = text.partition(start)
        if not found:
            return before, ""
        reasoning, _, after = text.partition(end)
        return before + after, reasoning
    reasoning, _, after = text.partition(end)
    return after, reasoning.removeprefix(start)


def _without_calls(text: str, start: str, end: str | None) -> tuple[str, list[str]]:
    """The text around calls, and what stands within each; the last may lack its end."""
    before, *rest = text.split(start)
    bodies = []
    for part in rest:
        body, _, after = part.partition(end) if end else (part, "", "")
        bodies.append(body)
        before += after
    return before, bodies


def _read(parsed: Any) -> Iterator[ToolCall]:
    """The calls of what a parser gave: one or several tables with name and arguments. KeyError, TypeError if none."""
    for call in parsed if isinstance(parsed, list) else [parsed]:
        if not isinstance(call["name"], str):
            raise TypeError("a call's name is no text")
        yield ToolCall(call["name"], json.dumps(call["arguments"], ensure_ascii=False), str(call.get("id") or ""))
