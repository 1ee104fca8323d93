"""A build as a side: its answers, the prompt cache through a conversation, and taking a generated text apart."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
from mlx_lm.tool_parsers import json_tools, qwen3_coder

from mlxquant.builds.read.build import read_build
from mlxquant.builds.read.loading import run_failure
from mlxquant.errors import BuildError
from mlxquant.evals.drafts import readable
from mlxquant.evals.items import ToolCall
from mlxquant.evals.loaded import LoadedModel
from mlxquant.evals.opening import EvalTarget, open_sides
from mlxquant.evals.replies import broken_calls, take_apart
from mlxquant.evals.sides import Request
from tests.support.builds import build

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "tiny-f32"
    build(tiny("qwen3_5_moe"), out, "none", dtype="float32", audit=False)
    return out


@pytest.fixture
def side(folder):
    loaded = LoadedModel(read_build(folder), "tiny")
    loaded.open()
    yield loaded
    loaded.close()


def test_experts_that_a_cpu_cannot_run_name_the_dtype_that_it_can():
    told = run_failure(RuntimeError("[GatherMM::eval] Currently only supports float32."))
    assert told.startswith("RuntimeError: [GatherMM::eval] Currently only supports float32: on a CPU")
    assert told.endswith("`mlxquant convert --dtype float32`")
    assert run_failure(KeyError("x")) == "KeyError: 'x'"


def turns(*contents):
    """A conversation: user and assistant in turn."""
    return tuple({"role": "user" if i % 2 == 0 else "assistant", "content": c} for i, c in enumerate(contents))


def said(reply):
    """All that was generated; random weights never end their reasoning."""
    assert reply.reasoning or reply.text
    return reply.reasoning + reply.text


@pytest.mark.slow
def test_a_build_answers_the_same_whatever_was_asked_before(side):
    first = Request(turns("Find the blue lamp."), (TOOL,), 12, conversation="a")
    alone = side.ask(first)
    side.ask(Request(turns("Something else."), (TOOL,), 12, conversation="b"))
    again = side.ask(first)
    assert (said(again), again.usage.output_tokens) == (said(alone), alone.usage.output_tokens)
    assert alone.usage.cached_tokens == 0 and again.usage.cached_tokens > 0, "system prompt and tools are read once"
    assert alone.usage.output_tokens == 12 and alone.finish_reason == "length"
    assert 0 < alone.timing.ttft_s < alone.timing.seconds and alone.timing.decode_tok_s > 0


@pytest.mark.slow
def test_a_second_turn_reads_only_what_is_new_and_answers_as_if_it_had_read_all(side, folder):
    first = side.ask(Request(turns("Find the blue lamp."), (), 8, conversation="a"))
    talk = Request(turns("Find the blue lamp.", said(first), "And the red one?"), (), 8, conversation="a")
    second = side.ask(talk)
    assert second.usage.cached_tokens > len("Find the blue lamp.") > first.usage.cached_tokens
    fresh = LoadedModel(read_build(folder), "tiny")
    fresh.open()
    assert said(fresh.ask(talk)) == said(second)
    fresh.close()


@pytest.mark.slow
def test_an_answer_is_not_begun_from_another_conversation(side):
    text = "Find the blue lamp, please, and tell me what it costs."
    side.ask(Request(turns(text), (), 4, conversation="a"))
    other = side.ask(Request(turns(text, "It is 12.", "Thanks."), (), 4, conversation="b"))
    assert other.usage.cached_tokens < 10


@pytest.mark.slow  # on a CPU, mlx compiles the sampler with the system's compiler
def test_a_seed_repeats_what_is_drawn(side):
    drawn = [said(side.ask(Request(turns("Go on."), (), 12, 1.5, None, seed))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_build_describes_itself_for_records_and_traces(side):
    variant, described = side.variant, side.describe()
    assert (variant.recipe, variant.format, variant.kind, variant.provider) == ("none", "f32", "build", "mlx_lm")
    assert described["bytes"] > 0 and described["manifest_sha256"] and "traffic" not in described


def test_a_tokenizer_without_a_chat_template_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    plain = LoadedModel(read_build(tmp_path / "plain"), "plain")
    with pytest.raises(BuildError, match="no chat template"):
        plain.open()


def test_sides_of_one_name_are_numbered_apart(folder):
    both = open_sides([EvalTarget("baseline", str(folder)), EvalTarget("candidate", str(folder))], 1)
    assert [s.variant.name for s in both] == ["tiny-f32", "tiny-f32#2"]


def test_history_is_made_readable_for_templates():
    function = {"name": "find", "arguments": '{"id": 1}'}
    made = readable({"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": function}]})
    assert made["content"] == "" and made["tool_calls"][0]["function"]["arguments"] == {"id": 1}


# --- taking a text apart ---


def tokenizer(parser=json_tools, thinking=True):
    return SimpleNamespace(
        has_thinking=thinking, think_start="<think>", think_end="</think>", has_tool_calling=True,
        tool_call_start=parser.tool_call_start, tool_call_end=parser.tool_call_end, tool_parser=parser.parse_tool_call,
    )  # fmt: skip


def apart(text, thinking=False, **more):
    return take_apart(text, tokenizer(**more), (TOOL,), thinking=thinking)


def written(name="find", arguments='{"id": 1}'):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def test_calls_are_read_by_the_tokenizers_own_parser():
    text, _, calls, broken = apart(f"I look.{written()}{written(arguments='{}')}")
    assert text == "I look." and broken == ()
    assert calls == (ToolCall("find", '{"id": 1}', "call_1"), ToolCall("find", "{}", "call_2"))
    coder = "<tool_call>\n<function=find>\n<parameter=id>\n1\n</parameter>\n</function>\n</tool_call>"
    assert apart(coder, parser=qwen3_coder)[2][0].name == "find"


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "find", "arguments": {"id": }}',
        '{"name": "find"}',
        '["find"]',
        "7",
        '{"name": 3, "arguments": {}}',
        "find(1)",
    ],
)
def test_a_call_that_nobody_can_read_is_kept_as_it_was_written(body):
    text, _, calls, broken = apart(f"<tool_call>\n{body}\n</tool_call>")
    assert (text, calls, broken) == ("", (), (body,))


def test_a_call_that_was_cut_off_is_a_broken_one():
    assert apart('<tool_call>\n{"name": "find", "argum')[3] == ('{"name": "find", "argum',)


def test_a_right_call_beside_a_broken_one_still_counts():
    _, _, calls, broken = apart(f"{written()}<tool_call>{{]</tool_call>")
    assert [c.name for c in calls] == ["find"] and broken == ("{]",)


def test_reasoning_is_taken_out_and_calls_within_it_are_none():
    text, reasoning, calls, broken = apart(f"maybe {written()} or not</think>Yes.", thinking=True)
    assert (text, calls, broken) == ("Yes.", (), ()) and reasoning.startswith("maybe")
    assert apart("<think>hm</think>Yes.")[:2] == ("Yes.", "hm")
    assert apart("hm and hm", thinking=True)[:2] == ("", "hm and hm"), "reasoning that never ends is no answer"


def test_without_tools_nothing_is_a_call():
    text, _, calls, broken = take_apart(written(), tokenizer(), (), thinking=False)
    assert text == written() and calls == () and broken == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Your order is on its way.", 0),
        ("The name of the item is lamp {blue}.", 0),
        ('{"name": "find", "arguments": {"id"', 1),
        ('<tool_call>{"name": "find", "arguments": {}}', 1),
        ('<tool_call>{"name": "a"}</tool_call> <tool_call>{"name": "b"}', 2),
        ("[TOOL_CALLS] find", 1),
        ("<function=find><parameter=id>1", 1),
    ],
)
def test_texts_that_set_out_to_be_calls_are_found(text, found):
    assert len(broken_calls(text)) == found


def test_a_broken_call_in_a_text_is_no_valid_json():
    for text in broken_calls('<tool_call>{"name": "find", "arguments": {}}'):
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(text)
