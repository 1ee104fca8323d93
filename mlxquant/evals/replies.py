"""Take a generated text apart as a server does: reasoning, answer, tool calls, and calls that cannot be read.

The tokenizer says how its model thinks and calls (mlx-lm's `TokenizerWrapper`); its own parser reads a call. Unlike
mlx_lm.server 0.32.2, which drops a call that its parser cannot read and breaks off the stream at one that is JSON
without a name or arguments, the text of such a call is kept: it is the damage that an evaluation looks for.

A text in which a model set out to call a tool and nobody could read it is an attempt at a call: worse than a right
call, and other than an answer. Such texts are known by the markers of the formats that mlx-lm parses (mlx-lm 0.32.2,
`tool_parsers`) and of a few more, and by a JSON object that begins as a call does. Nothing is repaired: a text that a
lenient reader might understand would not have been run either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .items import ToolCall

# --- calls ---


_MARKERS = (
    "<tool_call>", "<function=", "<|tool_call|>", "<|tool_call>", "<|tool_call_start|>", "<|tool_calls_section_begin|>",
    "[TOOL_CALLS]", "<|python_tag|>", "<minimax:tool_call>", "<longcat_tool_call>", "<start_function_call>",
    "<|open|>tools<|sep|>", "<function name=", "<atem:function_calls>", "<tool_calls>", "<|tool_call_begin|>",
    # of models whose calls mlx-lm does not parse: gpt-oss, DeepSeek, those that write as Anthropic's did
    "<|channel|>commentary to=", "<｜tool▁calls▁begin｜>", "<｜DSML｜function_calls>", "<｜DSML｜tool_calls>",
    "<function_calls>",
)  # fmt: skip
_OBJECT = r"\{\s*\"(?:name|function)\"\s*:"
# Calls as a list in Python's words, without a marker (Llama 4, xLAM): a text that begins so, for prose may cite one
_PYTHONIC = r"\A\s*\[\s*[A-Za-z_][\w.]*\(\s*(?:[A-Za-z_]\w*\s*=(?!=)|\)\s*(?:,|\](?!\()))"
_BEGIN = re.compile("|".join([*map(re.escape, _MARKERS), _OBJECT, _PYTHONIC]))


def broken_calls(text: str) -> tuple[str, ...]:
    """The parts of a text that set out to be calls, each up to the next one.

    >>> broken_calls('Let me see. <tool_call>{"name": "find", "arguments": {"id"')
    ('<tool_call>{"name": "find", "arguments": {"id"',)
    >>> broken_calls("Your order is on its way.")
    ()
    """
    begins: list[int] = []
    for match in _BEGIN.finditer(text):
        # a marker and the object right behind it are one attempt
        if not begins or text[begins[-1] : match.start()].strip() not in _MARKERS:
            begins.append(match.start())
    ends = [*begins[1:], len(text)]
    return tuple(text[begin:end].strip() for begin, end in zip(begins, ends, strict=False))


# --- replies ---


# Marks of reasoning (mlx-lm 0.32.2, `tokenizer_utils`)
THINKING = (
    ("<think>", "</think>"), ("<longcat_think>", "</longcat_think>"), ("<|think:start|>", "<|think:end|>"),
    ("<|channel>thought", "<channel|>"), ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    # of models whose reasoning mlx-lm does not know: Magistral, gpt-oss
    ("[THINK]", "[/THINK]"), ("<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>final<|message|>"),
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
                parsed = list(_read(tokenizer.tool_parser(body, list(tools))))
            except _UNREADABLE:
                broken.append(body.strip())
            else:
                calls += parsed
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
        before, mark, text = text.partition(start)
        if not mark:
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
