"""No reply, however strange, ends a run: it is judged, or it is the item's failure that it cannot be."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from mlxquant.errors import DataError, MeasurementError
from mlxquant.evals.items import Item, Reply, ToolCall
from mlxquant.evals.sides import Request, Variant
from mlxquant.evals.suites import scoring
from mlxquant.evals.suites.catalog import Choice, open_suites
from mlxquant.evals.suites.own import read_suite
from mlxquant.evals.suites.scoring import KINDS, judged
from mlxquant.evals.trace import TraceSpan, as_line
from mlxquant.words.strict_json import read_json

TEXTS = {
    "nothing": "", "control": "\0\x1b[31m\u202e42", "open lists": "[" * 1500, "open tables": '{"a":' * 1500,
    "deep": '{"a":' * 200 + "1" + "}" * 200, "digits": "1" * 5000, "other digits": "٣" * 400,
    "long number": '{"a": ' + "1" * 5000 + "}", "overflow": '{"a": 1e999999}', "NaN": '{"a": NaN}',
    "infinity": '{"a": -Infinity}', "half": '{"a":"\\ud800"}', "large": '{"a":' + "9" * 299 + "}",
    "1e308": '{"a":1e308}',    "number": "5", "null": "null", "list": "[]", "true": "true", "text": '"x"',
    "calls": "<tool_call>" * 2000 + "{" * 2000,    "fence": "```json\n" * 1000, "answers": "answer: " * 1000 + "5",
    "commas": "1," * 5000 + "1",
}  # fmt: skip
SPECS: list[dict[str, Any]] = [
    {"kind": "exact", "answer": "x"}, {"kind": "contains", "all": ["a"]}, {"kind": "regex", "pattern": "a+b"},
    {"kind": "number", "answer": 5}, {"kind": "number", "answer": 1e308, "tolerance": 1e308},
    {"kind": "lines", "count": 3, "each": "a"}, {"kind": "words", "min": 1}, {"kind": "count", "of": "x"},
    {"kind": "starts", "with": "x"}, {"kind": "ends", "with": "x"}, {"kind": "case", "is": "upper"},
    {"kind": "json_schema", "schema": {"properties": {"a": {"multipleOf": 0.01}}}},
    {"kind": "json_schema", "schema": {"properties": {"a": {"multipleOf": 1e-300, "maximum": 5}}}},
    {"kind": "json_schema", "schema": {"$ref": "#"}}, {"kind": "json_schema", "schema": {"$ref": "#/nowhere"}},
    {"kind": "json_schema", "schema": {"$ref": "http://127.0.0.1:9/x"}},
    {"kind": "json_schema", "schema": {"pattern": "("}}, {"kind": "json_schema", "schema": True, "equals": {"a": 1}},
    {"kind": "numbered", "to": 3}, {"kind": "repetition", "max": 0.1}, {"kind": "complete"},
    {"kind": "language", "language": "de"}, {"kind": "refusal", "expected": True},
    {"kind": "calls", "calls": [{"name": "f", "arguments": {"a": 1}}]}, {"kind": "calls", "none": True},
    {"kind": "calls", "calls": [{"name": "f", "arguments": {"a": 1}}], "any_order": True},
    {"kind": "bfcl", "category": "simple", "answers": [{"f": {"a": [1]}}]},
    {"kind": "all", "of": [{"kind": "complete"}]},
]  # fmt: skip


def tools(parameters):
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


NUMBER = tools({"type": "object", "properties": {"a": {"type": "number", "multipleOf": 0.01}}})


def test_every_kind_of_score_is_tried():
    assert {spec["kind"] for spec in SPECS} == set(KINDS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: json.dumps(spec)[:60])
def test_every_reply_is_judged_or_its_item_is_unscored(spec):
    for text in TEXTS.values():
        strange = ToolCall(text, text, text)
        for reply in (Reply(text), Reply("", (ToolCall("f", text),)), Reply(text, (strange,), broken_calls=(text,))):
            for given in ((), NUMBER, tools({"type": "dict", "properties": {"a": 5}, "required": 5})):
                try:
                    score = judged(spec, reply, given)
                except MeasurementError as error:
                    assert error.kind == "unscored" and "\n" not in str(error)
                else:
                    score.said.encode()


@pytest.mark.parametrize("suite", ["tool-loop", "contracts"])
def test_every_item_of_our_suites_comes_to_its_end(suite):
    huge = json.dumps(dict.fromkeys(("order_id", "quantity", "item_id", "percent", "amount", "days", "code"), 10**30))
    (played,) = open_suites([suite], Choice((5,), 1, None, None))
    for item in played.items()[::23]:
        names = [tool["function"]["name"] for tool in item.tools] or ["f"]
        for text in TEXTS.values():
            asked: list[str] = []

            def ask(messages, text=text, names=names, asked=asked, **_):
                json.dumps(list(messages), ensure_ascii=False).encode()
                asked.append(names[len(asked) % len(names)])
                calls = (ToolCall(asked[-1], text), ToolCall(asked[-1], huge), ToolCall("f\x1b", text))
                return Reply(text) if len(asked) % 3 == 0 else Reply(text, calls, broken_calls=(text,))

            played.play(item, ask).said.encode()


def test_a_pattern_that_takes_for_ever_is_broken_off_and_the_item_unscored(monkeypatch):
    monkeypatch.setattr(scoring, "LONGEST", 0.2)
    for spec in (
        {"kind": "regex", "pattern": "^(a+)+$"},
        {"kind": "lines", "each": "(a+)+"},
        {"kind": "json_schema", "schema": {"pattern": "^(a+)+$"}},
    ):
        text = "a" * 5000 + "!" if spec["kind"] != "json_schema" else json.dumps("a" * 5000 + "!")
        with pytest.raises(MeasurementError, match=r"not judged within 0\.2 s") as error:
            scoring.score_of(Item("a", "s", (), score=spec), Reply(text))
        assert error.value.kind == "unscored"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_trace_with_content_holds_every_reply():
    item = Item("a", "s", ({"role": "user", "content": "x"},))
    request = Request(item.messages)
    for text in TEXTS.values():
        reply = Reply(text, (ToolCall("f", text),), broken_calls=(text,))
        span = TraceSpan(item, 0, 0, 0, None, 0, 1, request, reply)
        line = as_line(span, Variant("m", "endpoint", "m", "openai", {}), content=True)
        assert json.loads(json.dumps(line, ensure_ascii=False, allow_nan=False).encode())


def test_a_suite_whose_tools_have_no_schema_is_refused_before_anything_is_asked(tmp_path):
    row = {"messages": [{"role": "user", "content": "x"}], "score": {"kind": "complete"}, "tools": tools({"type": 5})}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r's.jsonl, line 1: "tools": f: "parameters" is no JSON schema'):
        read_suite(tmp_path / "s.jsonl")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1e999", "larger number"), ("1" * 301, "301 digits"), ("NaN", "NaN is not JSON"), ("[-Infinity]", "not JSON"),
        ("[" * 70 + "]" * 70, "64 deep"), ("[" * 100_000, "64 deep"), ("{nope", "Expecting"), (b"\xff", "utf-8"),
    ],
)  # fmt: skip
def test_what_python_reads_and_nothing_can_work_with_is_no_json(text, why):
    with pytest.raises(ValueError, match=why):
        read_json(text)


def test_halves_of_pairs_in_json_become_a_sign_and_pairs_stay():
    assert read_json('{"\\ud800": ["\\ud83d\\ude00", "\\udc00x"]}') == {"\ufffd": ["\U0001f600", "\ufffdx"]}
    assert read_json('["\\ud83d"]', halves=True) == ["\ud83d"]
