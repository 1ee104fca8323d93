"""Find calls that came as text: where a model set out to call a tool and nobody could read it.

A server hands out a call only if its parser read it. What it could not read stands in the text, if it is not dropped.
Such a text is an attempt at a call, which is worse than a right call and other than an answer. Known markers are those
of the formats that mlx-lm parses (mlx-lm 0.32.2, `tool_parsers`), and a JSON object that begins as a call does.
Nothing is repaired: a text that a lenient reader might understand would not have been run either.
"""

from __future__ import annotations

import re

_MARKERS = (
    "<tool_call>", "<function=", "<|tool_call|>", "<|tool_call>", "<|tool_call_start|>", "<|tool_calls_section_begin|>",
    "[TOOL_CALLS]", "<|python_tag|>", "<minimax:tool_call>", "<longcat_tool_call>", "<start_function_call>",
    "<|open|>tools<|sep|>", "<function name=", "<atem:function_calls>", "<tool_calls>", "<|tool_call_begin|>",
)  # fmt: skip
_OBJECT = r"\{\s*\"(?:name|function)\"\s*:"
_BEGIN = re.compile("|".join([*map(re.escape, _MARKERS), _OBJECT]))


def broken_calls(text: str) -> tuple[str, ...]:
    """The parts of a text that set out to be calls, each up to the next one.

    >>> broken_calls('Let me see. <tool_call>{"name": "find", "arguments": {"id"')
    ('<tool_call>{"name": "find", "arguments": {"id"',)
    >>> broken_calls("Your order is on its way.")
    ()
    """
    begins: list[int] = []
    for found in _BEGIN.finditer(text):
        # a marker and the object right behind it are one attempt
        if not begins or text[begins[-1] : found.start()].strip() not in _MARKERS:
            begins.append(found.start())
    ends = [*begins[1:], len(text)]
    return tuple(text[begin:end].strip() for begin, end in zip(begins, ends, strict=False))
