"""Every format of tool calls that mlx-lm parses: a call in it is read as mlx-lm reads it, a cut one is broken."""

from __future__ import annotations

import importlib
import json
import pkgutil
from types import SimpleNamespace
from typing import Any

import mlx_lm.tool_parsers as parsers
import pytest

from mlxquant.evals.replies import take_apart

TOOLS = (
    {
        "type": "function",
        "function": {"name": "find", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}},
    },
)
# The call find(id="A1") as each parser's own documentation, pattern or template has it
SAMPLES = {
    "function_gemma": "<start_function_call>call:find{id:<escape>A1<escape>}<end_function_call>",
    "gemma4": '<|tool_call>call:find{id:<|"|>A1<|"|>}<tool_call|>',
    "glm47": "<tool_call>find<arg_key>id</arg_key><arg_value>A1</arg_value></tool_call>",
    "json_tools": '<tool_call>{"name": "find", "arguments": {"id": "A1"}}</tool_call>',
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.find:0<|tool_call_argument_begin|>"
               '{"id": "A1"}<|tool_call_end|><|tool_calls_section_end|>',
    "kimi_k3": '<|open|>tools<|sep|><|open|>call tool="find" index="1"<|sep|><|open|>argument key="id" type="string"'
               "<|sep|>A1<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
    "laguna": "<tool_call>find<arg_key>id</arg_key><arg_value>A1</arg_value></tool_call>",
    "longcat": "<longcat_tool_call>find<longcat_arg_key>id</longcat_arg_key><longcat_arg_value>A1</longcat_arg_value>"
               "</longcat_tool_call>",
    "minicpm5": '<function name="find"><param name="id">A1</param></function>',
    "minimax_m2": '<minimax:tool_call><invoke name="find"><parameter name="id">A1</parameter></invoke>'
                  "</minimax:tool_call>",
    "mistral": '[TOOL_CALLS]find[ARGS]{"id": "A1"}',
    "muse_spark": '<atem:function_calls><atem:invoke name="find"><atem:parameter name="id">A1</atem:parameter>'
                  "</atem:invoke></atem:function_calls>",
    "pythonic": '<|tool_call_start|>[find(id="A1")]<|tool_call_end|>',
    "qwen3_coder": "<tool_call>\n<function=find>\n<parameter=id>\nA1\n</parameter>\n</function>\n</tool_call>",
}  # fmt: skip
# Formats in which a call without its end can still be read, so that it is one
READ_WITHOUT_END = ("mistral", "minicpm5", "muse_spark", "laguna", "glm47")


def tokenizer_of(name: str) -> Any:
    module = importlib.import_module(f"{parsers.__name__}.{name}")
    return SimpleNamespace(
        has_thinking=False,
        has_tool_calling=True,
        tool_call_start=module.tool_call_start,
        tool_call_end=module.tool_call_end,
        tool_parser=module.parse_tool_call,
    )


def test_there_is_a_sample_of_every_format_that_mlx_lm_parses():
    assert {module.name for module in pkgutil.iter_modules(parsers.__path__)} <= SAMPLES.keys()


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_call_is_read_by_mlx_lms_own_parser(name):
    if importlib.util.find_spec(f"{parsers.__name__}.{name}") is None:
        pytest.skip("this mlx-lm has no such parser")
    text, _, calls, broken = take_apart(f"I look. {SAMPLES[name]}", tokenizer_of(name), TOOLS, thinking=False)
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [("find", {"id": "A1"})]
    assert text.strip() == "I look." and broken == ()


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - set(READ_WITHOUT_END)))
def test_a_call_that_breaks_off_is_a_broken_one_and_no_answer(name):
    if importlib.util.find_spec(f"{parsers.__name__}.{name}") is None:
        pytest.skip("this mlx-lm has no such parser")
    tokenizer = tokenizer_of(name)
    sample = SAMPLES[name]
    cut = sample[: len(tokenizer.tool_call_start) + 3]
    text, _, calls, broken = take_apart(f"I look. {cut}", tokenizer, TOOLS, thinking=False)
    assert calls == () and broken and text.strip() == "I look."
