"""Asking a server: what a streamed answer is put together to, how it is timed, and what is no answer."""

from __future__ import annotations

import json
import re

import pytest

from mlxquant.endpoint.client import StreamError, is_other_model
from mlxquant.errors import MeasurementError, UsageError
from mlxquant.evals.asking import Asking, Sampling
from mlxquant.evals.items import Item, Reply, ToolCall
from mlxquant.evals.served import Served, the_model
from mlxquant.evals.sides import Request, worth_repeating
from mlxquant.evals.suites.scoring import judged
from mlxquant.words import secrets
from tests.endpoint.servers import DONE, SSE, address, server

TOOLS = ({"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}},)
ASK = Request(({"role": "user", "content": "Find it."},), TOOLS, 64, conversation="c")


def chunk(delta, reason=None, **more):
    return f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': reason}], **more})}\n\n".encode()


def counted(prompt=10, completion=5, cached=0):
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode()


def call(index, name=None, arguments=None, id=None):
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    entry = {k: v for k, v in (("index", index), ("id", id), ("function", function)) if v is not None}
    return chunk({"tool_calls": [entry]})


def asked(*parts, request=ASK, key=None):
    with server([SSE, *parts]) as running:
        reply = Served(address(running, key=key), "tiny", "tiny").ask(request)
        head, body = running.seen[0]
    return reply, head, body


def test_calls_that_come_in_pieces_are_put_together_in_their_order():
    parts = [call(0, "find", "", "a"), call(1, "find", '{"n"', "b"), call(0, arguments='{"id": 1}'),
             call(1, arguments=": 2}"), chunk({}, "tool_calls"), counted(), DONE]  # fmt: skip
    reply, _, _ = asked(*parts)
    assert reply.tool_calls == (ToolCall("find", '{"id": 1}', "a"), ToolCall("find", '{"n": 2}', "b"))
    assert reply.finish_reason == "tool_calls" and reply.broken_calls == ()


def test_calls_without_a_number_are_told_apart_by_their_ids():
    parts = [call(None, "find", '{"a"', "x"), call(None, arguments=": 1}"), call(None, "find", "{}", "y"),
             chunk({}, "tool_calls"), DONE]  # fmt: skip
    reply, _, _ = asked(*parts)
    assert [c.arguments for c in reply.tool_calls] == ['{"a": 1}', "{}"]


def test_arguments_that_a_server_sends_as_a_table_become_text():
    parts = [chunk({"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": {"a": 1}}}]}),
             chunk({}, "stop"), DONE]  # fmt: skip
    assert asked(*parts)[0].tool_calls[0].arguments == '{"a": 1}'


def test_arguments_stay_what_the_model_wrote_even_if_they_are_no_json():
    reply, _, _ = asked(call(0, "find", '{"a": '), chunk({}, "tool_calls"), DONE)
    assert reply.tool_calls[0].arguments == '{"a": '


def test_a_call_that_the_server_dropped_is_a_broken_one():
    assert asked(chunk({}, "tool_calls"), counted(), DONE)[0].broken_calls == ("",)
    cut_off = asked(chunk({}, "length"), counted(completion=64), DONE)[0]
    assert cut_off.broken_calls == ("",) and cut_off.finish_reason == "length"
    assert asked(chunk({}, "stop"), counted(completion=1), DONE)[0].broken_calls == ()


def test_a_call_that_stands_in_the_text_is_a_broken_one():
    reply, _, _ = asked(chunk({"content": 'I look. <tool_call>{"name": "find", '}), chunk({}, "stop"), DONE)
    assert reply.broken_calls == ('<tool_call>{"name": "find",',) and reply.tool_calls == ()


def test_reasoning_is_kept_apart_from_the_answer():
    reply, _, _ = asked(chunk({"reasoning": "hm"}), chunk({"content": "yes"}), chunk({}, "stop"), DONE)
    assert (reply.reasoning, reply.text) == ("hm", "yes")


def test_the_first_token_is_timed_where_it_can_be_seen():
    text, _, _ = asked(0.05, chunk({"content": "a"}), 0.1, chunk({"content": "b"}), chunk({}, "stop"), counted(), DONE)
    after = text.timing.seconds - text.timing.ttft_s
    assert text.timing.ttft_s >= 0.05 and after >= 0.095
    assert text.timing.decode_tok_s == pytest.approx(4 / after)
    pieces, _, _ = asked(0.05, call(0, "find", '{"a"'), 0.05, call(0, arguments=": 1}"), chunk({}, "tool_calls"),
                         counted(), DONE)  # fmt: skip
    assert pieces.timing.ttft_s is not None and pieces.timing.ttft_s < pieces.timing.seconds
    whole, _, _ = asked(0.05, call(0, "find", '{"a": 1}'), chunk({}, "tool_calls"), counted(), DONE)
    assert whole.timing.ttft_s is None and whole.timing.decode_tok_s is None and whole.timing.seconds >= 0.05


def test_a_stream_that_came_at_once_gives_no_rate():
    reply, _, _ = asked(chunk({"content": "a"}), chunk({}, "stop"), counted(completion=5000), DONE)
    assert reply.timing.decode_tok_s is None


def test_the_servers_counts_are_kept_and_absent_ones_stay_unknown():
    usage = asked(chunk({"content": "a"}), chunk({}, "stop"), counted(10, 2, 7), DONE)[0].usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (10, 2, 7)
    usage = asked(chunk({"content": "a"}), chunk({}, "stop"), DONE)[0].usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (None, None, None)


def test_a_request_has_tools_temperature_and_key_but_no_seed_where_nothing_is_drawn():
    _, head, body = asked(chunk({"content": "a"}, "stop"), DONE, key="s3cret")
    assert "Authorization: Bearer s3cret" in head
    assert body["tools"] == list(TOOLS) and body["temperature"] == 0 and body["stream"] is True
    assert "seed" not in body and "chat_template_kwargs" not in body
    drawn = Request(ASK.messages, (), 64, 0.7, 0.9, 3, {"enable_thinking": False})
    _, _, body = asked(chunk({"content": "a"}, "stop"), DONE, request=drawn)
    assert (body["seed"], body["top_p"], body["chat_template_kwargs"]) == (3, 0.9, {"enable_thinking": False})
    assert "tools" not in body


@pytest.mark.parametrize(
    ("parts", "kind", "again"),
    [
        ([b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"], "http", True),
        ([b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n"], "http", True),
        ([b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"], "http", False),
        ([SSE, chunk({"content": "a"})], "truncated", True),
        ([SSE, b'data: {"choices": 3}\n\n'], "malformed", False),
    ],
)
def test_only_what_went_wrong_on_the_way_is_worth_asking_again(parts, kind, again):
    with server(parts) as running, pytest.raises(StreamError) as error:
        Served(address(running), "tiny", "tiny").ask(ASK)
    assert error.value.kind == kind and worth_repeating(error.value) is again


def test_a_timeout_is_told_and_not_worth_asking_again():
    with server([SSE, 0.5]) as running, pytest.raises(MeasurementError) as error:
        Served(address(running, timeout=0.1), "tiny", "tiny").ask(ASK)
    assert error.value.kind == "timeout" and not worth_repeating(error.value)


def models(*names):
    text = json.dumps({"data": [{"id": n} for n in names]}).encode()
    return [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text), text]


def test_a_servers_only_model_need_not_be_named():
    with server(models("org/tiny")) as running:
        assert the_model(address(running), "--baseline-model") == "org/tiny"


def test_a_server_of_several_models_or_none_wants_a_name():
    with server(models("a", "b")) as running, pytest.raises(UsageError, match=r"2 models \(a, b\); give --x"):
        the_model(address(running), "--x")
    with server([b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"]) as running, pytest.raises(UsageError, match="404"):
        the_model(address(running), "--x")


# --- what servers do otherwise ---


def entry(name=None, arguments=None, id=None, index=None):
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    return {k: v for k, v in (("index", index), ("id", id), ("function", function)) if v is not None}


ONE, TWO = '{"id": "A1"}', '{"id": "B2"}'
BOTH = [("find", ONE), ("find", TWO)]
CALLS = {
    "one index, other ids": ([[entry("find", ONE, "a", 0)], [entry("find", TWO, "b", 0)]], BOTH, "their ids"),
    "one index, no ids": ([[entry("find", ONE, None, 0)], [entry("find", TWO, None, 0)]], BOTH, "their names"),
    "one index, in one list": ([[entry("find", ONE, None, 0), entry("find", TWO, None, 0)]], BOTH, "places in a list"),
    "no index, no ids": ([[entry("find", ONE)], [entry("find", TWO)]], BOTH, "their names"),
    "no index, empty ids": ([[entry("find", ONE, "")], [entry("find", TWO, "")]], BOTH, "their names"),
    "no index, in one list": ([[entry("find", ONE), entry("find", TWO)]], BOTH, "places in a list"),
    "no index, ids": ([[entry("find", ONE, "a")], [entry("find", TWO, "b")]], BOTH, "their ids"),
    "pieces, one index, ids": (
        [[entry("find", '{"id"', "a", 0)], [entry(None, ': "A1"}', None, 0)], [entry("find", TWO, "b", 0)]],
        BOTH, "their ids",
    ),
    "equal calls of one index": ([[entry("find", ONE, "a", 0)], [entry("find", ONE, "b", 0)]], [BOTH[0]] * 2, "ids"),
    "no arguments, in one list": (
        [[entry("a", None, None, 0), entry("b", None, None, 0)]], [("a", ""), ("b", "")], "places in a list",
    ),
    "a name with each piece": (
        [[entry("find", '{"id"', "a", 0)], [entry("find", ': "A1"}', "a", 0)]], [("find", ONE)], None,
    ),
    "an id with each piece": (
        [[entry("find", '{"id"', "a", 0)], [entry(None, ': "A1"}', "b", 0)]], [("find", ONE)], None,
    ),
    "a name in pieces": ([[entry("fi", None, "a", 0)], [entry("nd", ONE, None, 0)]], [("find", ONE)], None),
    "by index": ([[entry("find", TWO, "b", 1)], [entry("find", ONE, "a", 0)]], BOTH, None),
    "huge indices": ([[entry("find", ONE, "a", 10**18)], [entry("find", TWO, "b", 10**19)]], BOTH, None),
}  # fmt: skip


@pytest.mark.parametrize("way", CALLS)
def test_parallel_calls_are_told_apart_however_a_server_numbers_them(way):
    events, calls, named = CALLS[way]
    reply, _, _ = asked(*(chunk({"tool_calls": pieces}) for pieces in events), chunk({}, "tool_calls"), DONE)
    assert [(c.name, c.arguments) for c in reply.tool_calls] == calls
    assert any(named in w for w in reply.ways) if named else reply.ways == (), reply.ways


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ("<think>17+25</think>\n\n42", "\n\n42", "17+25"), ("17+25</think>42", "42", "17+25"),
        ("<think>17+", "", "17+"),
        ("<longcat_think>x</longcat_think>42", "42", "x"), ("<|channel>thought\nx<channel|>42", "42", "\nx"),
        ("<|open|>think<|sep|>x<|close|>think<|sep|>42", "42", "x"), ("42", "42", ""),
    ],
)  # fmt: skip
def test_reasoning_in_the_text_is_taken_out_and_named(content, text, reasoning):
    reply, _, _ = asked(chunk({"content": content}), chunk({}, "stop"), DONE)
    assert (reply.text, reply.reasoning) == (text, reasoning)
    assert any("reasoning in the text" in way for way in reply.ways) == bool(reasoning)


def test_an_answer_of_which_nothing_is_shown_is_named():
    ways = asked(chunk({"role": "assistant"}), chunk({}, "stop"), counted(completion=8), DONE)[0].ways
    assert ways == ("counts tokens of answers that it does not show",)
    assert asked(chunk({}, "stop"), counted(completion=1), DONE)[0].ways == ()
    ways = asked(chunk({"reasoning_content": "42", "content": None}), chunk({}, "stop"), counted(), DONE)[0].ways
    assert ways == ("shows reasoning and no answer",)
    assert asked(chunk({}, "tool_calls"), counted(), DONE)[0].ways == ("reports a call that it does not show",)


def test_more_calls_than_anyone_makes_are_no_answer():
    pieces = [entry("f", "{}", str(n), n) for n in range(1001)]
    with server([SSE, chunk({"tool_calls": pieces})]) as running, pytest.raises(StreamError, match="more than 1000"):
        Served(address(running), "tiny", "tiny").ask(ASK)


def test_calls_left_in_the_text_are_known_by_every_mark_of_mlx_lms_parsers():
    import importlib
    import pkgutil

    import mlx_lm.tool_parsers as parsers

    starts = set()
    for module in pkgutil.iter_modules(parsers.__path__):
        start = getattr(importlib.import_module(f"{parsers.__name__}.{module.name}"), "tool_call_start", None)
        starts |= {start} if start else set()
    assert len(starts) >= 10
    for start in starts:
        reply, _, _ = asked(chunk({"content": f"I look. {start}find A1"}), chunk({}, "stop"), DONE)
        assert reply.broken_calls == (f"{start}find A1",), start
        assert reply.ways == ("leaves calls in the text that its parser did not read",)


@pytest.mark.parametrize(
    ("text", "is_call"),
    [
        ('<function_calls>\n<invoke name="find">', True),
        ("[find(id=1), find(id=2)]", True),
        ("[store.find()]", True),
        ("[find()](https://example.org) looks it up.", False),
        ("The list is [find(id=1)].", False),
        ("[f(x) = 3]", False),
    ],
)
def test_calls_without_a_mark_of_mlx_lm_are_known_and_prose_is_not_taken_for_one(text, is_call):
    reply, _, _ = asked(chunk({"content": text}), chunk({}, "stop"), DONE)
    assert reply.broken_calls == ((text,) if is_call else ())
    assert reply.ways == (("leaves calls in the text that its parser did not read",) if is_call else ())


def test_arguments_that_each_piece_repeats_from_their_beginning_are_taken_once_and_named():
    parts = [call(0, "find", '{"id', "a"), call(0, arguments='{"id": 1'), call(0, arguments='{"id": 1}')]
    reply, _, _ = asked(*parts, chunk({}, "tool_calls"), DONE)
    assert reply.tool_calls == (ToolCall("find", '{"id": 1}', "a"),)
    assert reply.ways == ("repeats the arguments of calls from their beginning in each piece",)
    nested, _, _ = asked(call(0, "f", '{"x": ', "a"), call(0, arguments='{"x": 1}}'), chunk({}, "tool_calls"), DONE)
    assert nested.tool_calls[0].arguments == '{"x": {"x": 1}}' and nested.ways == ()


def test_an_empty_answer_without_counts_is_named():
    assert asked(chunk({}, "stop"), DONE)[0].ways == ("sends empty answers and does not count their tokens",)


def test_every_mark_of_reasoning_of_mlx_lm_is_known():
    import inspect

    from mlx_lm import tokenizer_utils

    from mlxquant.evals.replies import THINKING

    source = inspect.getsource(tokenizer_utils._infer_thinking)
    marks = set(re.findall(r'"(<[^"]+>(?:thought)?)"(?! in)', source))
    assert marks - {mark for pair in THINKING for mark in pair} == set()


@pytest.mark.parametrize(
    "text",
    [
        "[THINK]17 + 25[/THINK]42",
        "<|channel|>analysis<|message|>17 + 25<|end|><|start|>assistant<|channel|>final<|message|>42",
    ],
)
def test_reasoning_of_models_that_mlx_lm_does_not_know_is_taken_out_too(text):
    reply, _, _ = asked(chunk({"content": text}), chunk({}, "stop"), DONE)
    assert reply.text == "42" and reply.ways == ("leaves reasoning in the text, from which it was taken",)


@pytest.mark.parametrize(
    "text",
    [
        '<|channel|>commentary to=functions.find <|message|>{"id": 1}',
        "<｜tool▁calls▁begin｜>find",
        "<｜DSML｜function_calls>",
    ],
)
def test_calls_of_models_that_mlx_lm_does_not_parse_are_known_too(text):
    assert asked(chunk({"content": text}), chunk({}, "stop"), DONE)[0].broken_calls == (text,)


@pytest.mark.parametrize(
    ("asked_for", "answered", "other"),
    [
        ("m", "m", False), ("m", None, False), ("org/Tiny", "/models/tiny/", False), ("m", "totally-other", True),
        ("m", "m-4bit", True), ("gpt-4o", "gpt-4o-2024-08-06", False), ("qwen3", "qwen3:latest", False),
        ("default_model", "/models/tiny", False), ("tiny-8bit", "tiny-4bit", True), ("m-1", "m-10", True),
    ],
)  # fmt: skip
def test_another_model_is_known_by_its_name(asked_for, answered, other):
    assert is_other_model(asked_for, answered) is other


def test_what_older_and_careless_servers_send_is_read_and_named():
    begin, rest = {"name": "find", "arguments": '{"id"'}, {"arguments": ": 1}"}
    old = [chunk({"function_call": part}) for part in (begin, rest)] + [chunk({}, "function_call"), DONE]
    reply, _, _ = asked(*old)
    assert reply.tool_calls == (ToolCall("find", '{"id": 1}'),) and "old form" in reply.ways[0]
    parts = (chunk({"content": "4"}), chunk({"content": "2"}, "stop"), DONE)
    lines = b"".join(part.replace(b"\n\n", b"\n") for part in parts)
    reply, _, _ = asked(lines)
    assert reply.text == "42" and reply.ways == ("leaves out the empty line between events",)
    reply, _, _ = asked(chunk({"content": "4"}, ""), 0.02, chunk({"content": "2"}, ""), chunk({}, "stop"), DONE)
    assert (reply.text, reply.finish_reason, reply.ways) == ("42", "stop", ()) and reply.timing.seconds >= 0.02
    reply, _, _ = asked(chunk({"refusal": "I cannot."}), chunk({}, "stop"), DONE)
    assert reply.text == "I cannot." and "refusals" in reply.ways[0]


def test_reasons_hold_no_part_of_a_key_that_a_model_repeats():
    secrets.register("sk-SECRETKEY-0123456789")
    text = "x" * 50 + " sk-SECRETKEY-0123456789"
    for spec in ({"kind": "exact", "answer": "x"}, {"kind": "json_schema", "schema": {"maxLength": 3}}):
        score = judged(spec, Reply(text if spec["kind"] == "exact" else json.dumps(text)))
        assert score.said and "sk-SE" not in score.said


# --- what servers do differently ---


def document(value, status=b"200 OK"):
    text = json.dumps(value).encode()
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(text))
    return [head, text]


def failed(*parts):
    with server(list(parts)) as running, pytest.raises(StreamError) as error:
        Served(address(running), "tiny", "tiny").ask(ASK)
    return error.value


def test_an_answer_that_is_whole_in_place_of_a_stream_is_read_named_and_not_timed():
    message = {"role": "assistant", "content": "42", "reasoning_content": "17+25"}
    whole_answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "model": "tiny"}
    with server(document(whole_answer | {"usage": {"prompt_tokens": 9, "completion_tokens": 8}})) as running:
        reply = Served(address(running), "tiny", "tiny").ask(ASK)
    assert (reply.text, reply.reasoning, reply.finish_reason, reply.usage.output_tokens) == ("42", "17+25", "stop", 8)
    assert reply.ways == ("answers whole, though a stream was asked for, so no token can be timed",)
    assert reply.timing.ttft_s is None and reply.timing.decode_tok_s is None


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "out of memory"}}, {"error": "out of memory"}, {"detail": "out of memory"},
        {"object": "error", "message": "out of memory"}, {"type": "error", "message": "out of memory"},
        {"code": 500, "message": "out of memory"},
    ],
)  # fmt: skip
def test_an_error_is_the_servers_in_a_stream_and_in_a_document_of_status_200(body):
    for parts in ([SSE, f"data: {json.dumps(body)}\n\n".encode()], document(body)):
        error = failed(*parts)
        assert error.kind == "server" and "the server reports an error: out of memory" in str(error)


def test_a_page_in_place_of_an_answer_is_no_answer():
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
    assert "an event stream expected, text/html found" in str(failed(page))
    assert failed(*document([1, 2])).kind == "malformed"


@pytest.mark.parametrize(
    ("parts", "text", "reasoning"),
    [
        ([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}], "42", ""),
        ([{"type": "thinking", "thinking": "17+25"}, {"type": "text", "text": "42"}], "42", "17+25"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "17+25"}]}, "42"], "42", "17+25"),
        ([{"type": "output_text", "text": "42"}], "42", ""),
        ([{"type": "refusal", "refusal": "No."}], "No.", ""),
    ],
)  # fmt: skip
def test_content_as_a_list_of_parts_is_put_together_and_its_reasoning_kept_apart(parts, text, reasoning):
    reply, _, _ = asked(chunk({"content": parts}), chunk({}, "stop"), DONE)
    assert (reply.text, reply.reasoning) == (text, reasoning)
    assert reply.ways == ("sends `content` as a list of parts",)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_taken_from_whatever_field_a_server_has_for_it(key):
    reply, _, _ = asked(chunk({key: "17+25", "content": None}), chunk({"content": "42"}), chunk({}, "stop"), DONE)
    assert (reply.text, reply.reasoning) == ("42", "17+25")


def test_marks_of_reasoning_in_the_text_are_taken_out_beside_a_field_of_reasoning():
    reply, _, _ = asked(chunk({"reasoning": "17"}), chunk({"content": "+25</think>42"}), chunk({}, "stop"), DONE)
    assert (reply.text, reply.reasoning) == ("42", "17+25")


@pytest.mark.parametrize(
    ("reason", "known", "named"),
    [
        ("stop", "stop", False), ("eos", "stop", True), ("end_turn", "stop", True), ("max_tokens", "length", True),
        ("MAX_TOKENS", "length", True), ("model_length", "length", True), ("tool_use", "tool_calls", True),
        ("content_filter", "content_filter", False), ("abort", "abort", False),
    ],
)  # fmt: skip
def test_a_finish_reason_of_another_name_is_known_and_named(reason, known, named):
    delta = {"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": "{}"}}]}
    reply, _, _ = asked(chunk(delta), chunk({}, reason), DONE)
    assert reply.finish_reason == known
    assert any(f"says finish_reason `{reason}` for `{known}`" in way for way in reply.ways) == named


@pytest.mark.parametrize(
    "frame",
    [
        ": keepalive\n\n{}", "event: message\nid: 7\n{}", "retry: 3000\n\n{}",
    ],
)  # fmt: skip
def test_comments_other_fields_line_ends_and_a_missing_space_or_done_change_nothing(frame):
    events = "".join(frame.format(part.decode()) for part in (chunk({"content": "42"}), chunk({}, "stop")))
    for text in (events, events.replace("\n", "\r\n"), events.replace("data: ", "data:")):
        for end in (DONE, b"data:[DONE]\r\n\r\n", b""):
            reply, _, _ = asked(text.encode() + end)
            assert (reply.text, reply.finish_reason, reply.ways) == ("42", "stop", ())


@pytest.mark.parametrize("choices", [{"choices": None}, {"choices": []}, {}])
def test_events_without_choices_carry_usage_alone(choices):
    last = json.dumps({**choices, "usage": {"prompt_tokens": 9, "completion_tokens": 2}})
    reply, _, _ = asked(chunk({"content": "42"}), chunk({}, "stop"), f"data: {last}\n\n".encode(), DONE)
    assert (reply.text, reply.usage.output_tokens) == ("42", 2)


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7), ("999999", 600, 600), ("soon", 0, 1), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 600, 600),
    ],
)  # fmt: skip
def test_a_busy_server_is_asked_again_after_the_time_that_it_gives(header, low, high):
    waits: list[float] = []

    class Busy:
        def ask(self, request):
            with server(
                [f"HTTP/1.1 503 Busy\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n".encode()]
            ) as running:
                return Served(address(running), "tiny", "tiny").ask(request)

    asking = Asking(Busy(), Item("s", "i", "c"), 0, Sampling(), retries=1, backoff_s=0.5, sleep=waits.append)  # type: ignore[arg-type]
    with pytest.raises(StreamError, match="status 503"):
        asking([{"role": "user", "content": "x"}])
    assert len(waits) == 1 and low <= waits[0] <= high
