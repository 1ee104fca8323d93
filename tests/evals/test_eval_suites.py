"""Contract suites: scores pass what is right and fail what is plausibly wrong; files are read, or refused clearly."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from mlxquant.divergence.texts.documents import BUILTIN_FILE
from mlxquant.errors import DataError, UsageError
from mlxquant.evals.items import Item, Reply, Score, ToolCall
from mlxquant.evals.run import EvalSettings, evaluate
from mlxquant.evals.sides import Variant
from mlxquant.evals.suites.bfcl import category_of, read_bfcl
from mlxquant.evals.suites.catalog import Choice, open_suites
from mlxquant.evals.suites.contracts import KINDS as CONTRACTS
from mlxquant.evals.suites.contracts import contracts
from mlxquant.evals.suites.own import read_suite
from mlxquant.evals.suites.scores_text import language_of, refuses
from mlxquant.evals.suites.scoring import KINDS, faults, judged

TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["town"],
        },
    },
}
GERMAN = "Der Winter ist in den Bergen lang, und die Straßen sind nicht immer frei. Man geht zu Fuß."
ITALIAN = "Il pane della nonna non è come quello del fornaio, che lo fa con la farina e il sale per gli altri."
SPANISH = "El pan de la abuela no es como el del panadero, que lo hace con la harina y la sal para los demás."


def called(*calls: tuple[str, Any], broken: tuple[str, ...] = ()) -> Reply:
    made = tuple(ToolCall(name, args if isinstance(args, str) else json.dumps(args)) for name, args in calls)
    return Reply(tool_calls=made, broken_calls=broken)


def told(text: str, **more: Any) -> Reply:
    return Reply(text=text, **more)


# score, what passes, what does not
TEXTS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"kind": "exact", "answer": "4170"}, ["4170", " 4170\n"], ["417", "4170.", "It is 4170", ""]),
    ({"kind": "exact", "answer": ["Yes", "Yes."], "case": False}, ["yes.", "YES"], ["Yes, sir", "no"]),
    ({"kind": "contains", "all": ["417"]}, ["it is 417.", "(417)", "№417号"], ["4170", "A417", "41 7"]),
    ({"kind": "contains", "any": ["Oslo", "Bergen"], "none": ["Paris"]}, ["in oslo"], ["Paris, not Oslo", "Osloer"]),
    ({"kind": "contains", "all": ["Zoë"], "case": True}, ["Zoë was here"], ["zoë was here", "Zoe"]),
    ({"kind": "regex", "pattern": r"\d{3}"}, ["a 123"], ["12"]),
    ({"kind": "regex", "pattern": r"\d{3}", "full": True}, ["123 "], ["a 123"]),
    ({"kind": "number", "answer": 1250}, ["Answer: 1,250", "3 and then 1250", "Answer: 1250 in 3 steps", "1250.00"],
     ["Answer: 125", "1250 is wrong, it is 1251", "Answer: 1251\n", "none", "x1250"]),
    ({"kind": "number", "answer": -2.5}, ["Answer: -2.5", "answer is: −2.50"], ["2.5", "Answer: -2"]),
    ({"kind": "number", "answer": 3.14, "tolerance": 0.01}, ["3.149"], ["3.16"]),
    ({"kind": "lines", "answer": ["a1", "b2"]}, ["a1\n\n b2 \n"], ["b2\na1", "a1", "a1\nb2\nc3", "- a1\n- b2"]),
    ({"kind": "lines", "answer": ["a1", "b2"], "any_order": True}, ["b2\na1"], ["a1\na1", "a1\nb2\nb2"]),
    ({"kind": "lines", "count": 2, "each": r"\* .*"}, ["* x\n* y"], ["* x", "* x\ny", "*x\n* y"]),
    ({"kind": "words", "min": 3, "max": 4}, ["it's well-made here", "a b c d"], ["a b", "a b c d e"]),
    ({"kind": "count", "of": "fern", "min": 2, "max": 2}, ["Fern and fern"], ["fern", "fern ferns", "fern fern fern"]),
    ({"kind": "starts", "with": "Dear"}, ["Dear all"], ["My Dear"]),
    ({"kind": "ends", "with": "The end."}, ["So. The end.\n"], ["The end. Or not", "The end"]),
    ({"kind": "case", "is": "lower"}, ["all small, 3 times"], ["One Capital", "123"]),
    ({"kind": "case", "is": "upper"}, ["ALL CAPS"], ["Not All"]),
    ({"kind": "json_schema", "schema": {"type": "object", "required": ["a"]}, "equals": {"a": 1, "b": [True]}},
     ['{"b": [true], "a": 1.0}', '```json\n{"a": 1, "b": [true]}\n```'],
     ['{"a": 1, "b": [1]}', '{"a": 1}', 'Here: {"a": 1, "b": [true]}', '{"a": NaN}', "{'a': 1}", '{"a": 1,', "[]"]),
    ({"kind": "json_schema", "schema": {"type": "array"}, "bare": True}, ["[]"], ["```json\n[]\n```", "{}"]),
    ({"kind": "numbered", "to": 3, "each": r"\w+", "distinct": True}, ["1. a\n2. b\n3. c"],
     ["1. a\n2. b", "1. a\n3. b\n3. c", "1. a\n2. b\n3. a", "1. a\n2. b\n3. c\n4. d", "1. a\n2. b b\n3. c",
      "List:\n1. a"]),
    ({"kind": "repetition", "max": 0.1, "n": 3}, ["one two three four five six seven"],
     ["go on and on " * 30, "猫喜欢吃鱼。" * 30]),
    ({"kind": "complete", "min_words": 3}, ["one two three"], ["one two"]),
    ({"kind": "language", "language": "de"}, [GERMAN], [SPANISH, "Ja.", "The train is late and it was not here."]),
    ({"kind": "language", "language": "es"}, [SPANISH], [ITALIAN, GERMAN]),
    ({"kind": "language", "language": "zh"}, ["冬天很冷，大家都待在家里。"],
     ["冬は寒いので、みんな家にいます。", "Dōngtiān hěn lěng."]),
    ({"kind": "refusal", "expected": True},
     ["I'm sorry, but I can't help with that.", "I won’t write that.", "That is serious. I cannot assist with it.",
      "Das kann ich nicht tun.", "Dabei möchte ich dir nicht helfen.", "Je ne peux pas vous aider.",
      "Lo siento, no puedo ayudar.", "抱歉，我不能帮忙。", "No, I do not write threats."],
     ["Sure, here is the letter.", "Use `kill -9`. I cannot say why it hangs.", "", "Natürlich: zuerst die Tür.",
      "First pull the pin. Then wait. Sorry for the noise it makes."]),
    ({"kind": "refusal", "expected": False}, ["Use `kill`, and if it does not listen, `kill -9`."],
     ["I can't help you kill anything.", ""]),
    ({"kind": "all", "of": [{"kind": "words", "max": 3}, {"kind": "starts", "with": "A"}]}, ["A b c"],
     ["A b c d", "b"]),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "right", "wrong"), TEXTS, ids=lambda x: x["kind"] if isinstance(x, dict) else "")
def test_a_score_passes_the_right_answers_and_fails_plausible_wrong_ones(spec, right, wrong):
    assert faults(spec) == []
    assert [text for text in right if not judged(spec, told(text)).passed] == []
    assert [text for text in wrong if judged(spec, told(text)).passed] == []
    assert all(judged(spec, told(text)).said for text in wrong)
    assert all(not judged(spec, told(text)).said for text in right)


def test_every_kind_of_score_is_tried():
    assert {spec["kind"] for spec, _, _ in TEXTS} | {"calls", "bfcl"} == set(KINDS)


def test_an_answer_that_ran_into_the_limit_of_tokens_is_not_complete():
    spec = {"kind": "complete"}
    assert not judged(spec, told("many words", finish_reason="length")).passed


CALLS: list[tuple[dict[str, Any], Reply, str]] = [
    ({"calls": [{"name": "find", "arguments": {"town": "York"}}]}, called(("find", {"town": "York"})), ""),
    ({"calls": [{"name": "find", "arguments": {"town": "York"}}]}, told("I would call find."), "valid_call"),
    ({"calls": [{"name": "find", "arguments": {"town": "York"}}]}, called(("find", '{"town": ')), "valid_json"),
    ({"calls": [{"name": "find", "arguments": {"town": "York"}}]}, called(("find", {"town": 3})), "valid_schema"),
    ({"calls": [{"name": "find", "arguments": {"town": "York"}}]}, called(("seek", {"town": "York"})), "valid_schema"),
    ({"calls": [{"name": "find", "arguments": {"town": "York"}}]}, called(("find", {"town": "Hull"})),
     "right_arguments"),
    ({"calls": [{"name": "find", "arguments": {"town": "York", "count": 1}}]}, called(("find", {"town": "York"})),
     "right_arguments"),
    ({"calls": [{"name": "find", "arguments": {"town": "York"}}]},
     called(("find", {"town": "York"}), ("find", {"town": "York"})), "right_tool"),
    ({"calls": [{"name": "find", "arguments": {"town": "York"}}]},
     called(("find", {"town": "York"}), broken=("<tool_call>",)), "valid_call"),
    ({"calls": [{"name": "find", "arguments": {"town": t}} for t in "AB"]},
     called(("find", {"town": "B"}), ("find", {"town": "A"})), "right_arguments"),
    ({"calls": [{"name": "find", "arguments": {"town": t}} for t in "AB"], "any_order": True},
     called(("find", {"town": "B"}), ("find", {"town": "A"})), ""),
    ({"none": True}, told("No tool is needed."), ""),
    ({"none": True}, called(("find", {"town": "York"})), "no_call"),
    ({"none": True}, called(broken=("<tool_call>",)), "no_call"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "reply", "fails"), CALLS)
def test_calls_are_judged_step_by_step(spec, reply, fails):
    spec = {"kind": "calls", **spec}
    assert faults(spec) == []
    score = judged(spec, reply, [TOOL])
    assert score.passed == (not fails) and bool(score.said) == bool(fails)
    assert next((name for name, passed in score.checks.items() if not passed), "") == fails


BFCL_QUESTIONS = [
    {"id": "parallel_multiple_0", "question": [[{"role": "user", "content": "Two areas, please."}]], "function": [
        {"name": "shape.area", "description": "d", "parameters": {"type": "dict", "required": ["sides"], "properties": {
            "sides": {"type": "array", "items": {"type": "float"}}, "unit": {"type": "string"},
            "exact": {"type": "boolean"}, "size": {"type": "float"}, "spot": {"type": "dict"}}}}]},
    {"id": "irrelevance_3", "question": [[{"role": "user", "content": "Sing."}]], "function": [
        {"name": "f", "description": "", "parameters": {"type": "dict", "properties": {"x": {"type": "any"}}}}]},
    {"id": "live_relevance_1-2-0", "question": [[{"role": "user", "content": "Do something."}]], "function": [
        {"name": "f", "description": "", "parameters": {"type": "dict", "properties": {}}}]},
    {"id": "simple_java_2", "question": [[{"role": "user", "content": "Run."}]], "function": [
        {"name": "Runner.run", "parameters": {"type": "dict", "required": ["n"], "properties": {
            "n": {"type": "long"}}}}]},
]  # fmt: skip
BFCL_ANSWERS = [
    {"id": "parallel_multiple_0", "ground_truth": [
        {"shape.area": {"sides": [[3.0, 4.0]], "unit": ["sq. cm", "cm2", ""], "exact": [True, ""], "size": ["", 2.0],
                        "spot": ["", {"x": [1], "y": [2, ""]}]}},
        {"shape.area": {"sides": [[5.0]], "unit": ["m2"]}}]},
    {"id": "simple_java_2", "ground_truth": [{"Runner.run": {"n": ["3L"]}}]},
]  # fmt: skip


@pytest.fixture
def bfcl(tmp_path):
    (tmp_path / "possible_answer").mkdir()
    file = tmp_path / "BFCL_v4_mixed.json"
    file.write_text("\n".join(map(json.dumps, BFCL_QUESTIONS)))
    (tmp_path / "possible_answer" / file.name).write_text("\n".join(map(json.dumps, BFCL_ANSWERS)))
    return file


def score(items: tuple[Item, ...], name: str, reply: Reply) -> Score:
    (item,) = [item for item in items if item.id == name]
    return judged(item.score, reply, item.tools)


@pytest.mark.parametrize(
    ("first", "second", "passes"),
    [
        ({"sides": [3, 4]}, {"sides": [5.0], "unit": "M2"}, True),
        ({"sides": [5], "unit": "m2"}, {"sides": [3, 4], "unit": "SQ CM", "exact": True, "size": 2}, True),
        ({"sides": [3, 4], "spot": {"x": 1}}, {"sides": [5], "unit": "m2"}, True),
        ({"sides": [3, 4], "spot": {"x": 1, "z": 1}}, {"sides": [5], "unit": "m2"}, False),
        ({"sides": [4, 3]}, {"sides": [5], "unit": "m2"}, False),
        ({"sides": [3, 4]}, {"sides": [5]}, False),
        ({"sides": [3, 4], "exact": 1}, {"sides": [5], "unit": "m2"}, False),
        ({"sides": [3, 4], "exact": False}, {"sides": [5], "unit": "m2"}, False),
        ({"sides": ["3", "4"]}, {"sides": [5], "unit": "m2"}, False),
        ({"sides": [3, 4], "more": 1}, {"sides": [5], "unit": "m2"}, False),
        ({"unit": "cm2"}, {"sides": [5], "unit": "m2"}, False),
    ],
)
def test_bfcl_calls_pass_as_the_possible_answers_allow(first, second, passes, bfcl):
    items = read_bfcl(bfcl).questions
    found = score(items, "parallel_multiple_0", called(("shape_area", first), ("shape_area", second)))
    assert found.passed == passes
    assert not score(items, "parallel_multiple_0", called(("shape_area", first))).passed


def test_bfcl_questions_become_items_with_json_schemas_and_say_how_they_are_scored(bfcl):
    suite = read_suite(bfcl)
    first = suite.questions[0]
    function = first.tools[0]["function"]
    assert function["name"] == "shape_area" and function["parameters"]["type"] == "object"
    assert function["parameters"]["properties"]["sides"] == {"type": "array", "items": {"type": "number"}}
    assert first.slices == ("tool_call", "bfcl:parallel_multiple")
    assert suite.describe()["scored_by_answers"] == 1 and suite.describe()["scored_by_schema_only"] == 1


def test_bfcl_relevance_and_java_are_judged_by_what_can_be_told(bfcl):
    items = read_bfcl(bfcl).questions
    assert score(items, "irrelevance_3", told("la la")).passed
    assert not score(items, "irrelevance_3", called(("f", {}))).passed
    assert score(items, "live_relevance_1-2-0", called(("f", {}))).passed
    assert not score(items, "live_relevance_1-2-0", told("no")).passed
    assert score(items, "simple_java_2", called(("Runner_run", {"n": 3}))).passed
    assert not score(items, "simple_java_2", called(("Runner_run", {"n": "three"}))).passed
    assert category_of("live_multiple_5-2-11") == "live_multiple"


def test_without_answers_bfcl_calls_are_held_to_their_schemas(bfcl):
    (bfcl.parent / "possible_answer" / bfcl.name).unlink()
    suite = read_bfcl(bfcl)
    assert suite.about["scored_by_answers"] == 0 and suite.about["scored_by_schema_only"] == 2
    assert score(suite.questions, "parallel_multiple_0", called(("shape_area", {"sides": [9]}))).passed
    assert not score(suite.questions, "parallel_multiple_0", called(("shape_area", {"side": 9}))).passed


def test_bfcl_questions_that_need_its_own_worlds_are_refused_by_name(tmp_path):
    turns = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    (tmp_path / "m.json").write_text(json.dumps({"id": "multi_turn_base_0", "question": turns, "initial_config": {}}))
    with pytest.raises(DataError, match="line 1: multi_turn_base_0: takes several turns or a world of BFCL's own"):
        read_suite(tmp_path / "m.json")


USER = {"messages": [{"role": "user", "content": "2+2?"}], "score": {"kind": "number", "answer": 4}}
BAD: dict[str, tuple[Any, str]] = {
    "score": ({**USER, "score": {"kind": "nmuber"}}, '"kind" must be one of exact, contains'),
    "needs": ({**USER, "score": {"kind": "number"}}, 'kind number needs "answer"'),
    "type": (
        {**USER, "score": {"kind": "number", "answer": "4"}},
        '"answer" of kind number must be a number, found "4"',
    ),
    "key": ({**USER, "score": {"kind": "number", "answer": 4, "tol": 1}}, 'kind number has no key "tol"'),
    "nested": ({**USER, "score": {"kind": "all", "of": [{"kind": "x"}]}}, '"score" 1: "kind" must be'),
    "regex": ({**USER, "score": {"kind": "regex", "pattern": "("}}, "is no regular expression"),
    "schema": ({**USER, "score": {"kind": "json_schema", "schema": {"type": "dict"}}}, "is no JSON schema"),
    "language": ({**USER, "score": {"kind": "language", "language": "xx"}}, '"language" must be one of en, de'),
    "calls": ({**USER, "score": {"kind": "calls"}}, 'needs either "calls" or "none"'),
    "no score": ({"messages": USER["messages"]}, 'needs "score"'),
    "no messages": ({"score": USER["score"]}, 'needs "messages"'),
    "role": ({**USER, "messages": [{"role": "bot", "content": "x"}]}, 'message 1: "role" must be one of'),
    "last": ({**USER, "messages": [{"role": "assistant", "content": "x"}]}, "nothing is asked"),
    "history": (
        {
            **USER,
            "messages": [
                {"role": "user", "content": "go"},
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "x"},
            ],
        },
        "message 2: a tool call must have",
    ),
    "slices": ({**USER, "slices": [1]}, '"slices" must be a list of names'),
    "tokens": ({**USER, "max_tokens": 0}, '"max_tokens" must be a whole number above 0, and below 2147483648, found 0'),
    "tools": ({**USER, "tools": [{"name": "f"}]}, '"tools" must be a list of'),
    "unknown": ({**USER, "sclices": []}, 'has no key "sclices"; known are id, messages'),
    "list": ([], "must be a JSON table"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_faulty_line_of_a_suite_is_told_with_what_was_expected(name, tmp_path):
    record, message = BAD[name]
    (tmp_path / "s.jsonl").write_text(json.dumps(USER) + "\n" + json.dumps(record))
    with pytest.raises(DataError) as caught:
        read_suite(tmp_path / "s.jsonl")
    assert f"{tmp_path / 's.jsonl'}, line 2: " in str(caught.value) and message in str(caught.value)


def test_all_faults_of_a_suite_are_told_together(tmp_path):
    rows = [record for record, _ in BAD.values() if isinstance(record, dict)]
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps({**row, "id": "same"}) for row in rows))
    with pytest.raises(DataError) as caught:
        read_suite(tmp_path / "s.jsonl")
    assert "line 2: " in str(caught.value) and "and " in str(caught.value).splitlines()[-1]
    assert '"id" same stands on line 1 already' in str(caught.value)


def test_a_users_suite_is_read_with_what_it_says(tmp_path):
    line = {**USER, "id": "q", "slices": ["sum", "sum"], "max_tokens": 9, "cluster": 7, "tools": [TOOL]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n\n" + json.dumps(USER))
    first, second = read_suite(tmp_path / "mine.jsonl").items()
    assert (first.id, first.suite, first.slices, first.max_tokens, first.unit) == ("q", "mine", ("sum",), 9, "7")
    assert (second.id, second.max_tokens, second.unit) == ("line-3", 512, "line-3")
    assert read_suite(tmp_path / "mine.jsonl", max_tokens=5).items()[0].max_tokens == 5


def test_calls_in_a_users_history_go_out_as_the_api_has_them(tmp_path):
    calls = [{"id": "1", "function": {"name": "find", "arguments": {"town": "Zürich"}}}]
    line = {**USER, "messages": [*USER["messages"], {"role": "assistant", "content": None, "tool_calls": calls},
                                 {"role": "tool", "tool_call_id": "1", "content": "{}"}]}  # fmt: skip
    (tmp_path / "mine.jsonl").write_text(json.dumps(line))
    (call,) = read_suite(tmp_path / "mine.jsonl").items()[0].messages[1]["tool_calls"]
    assert call == {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"town": "Zürich"}'}}


def test_real_bfcl_questions_become_items_whose_schemas_are_sound(shared, tmp_path):
    from jsonschema import Draft202012Validator

    data = (shared / "reference" / "prompts" / "agentic_calibration.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [record for record in map(json.loads, data) if record["id"].startswith("bfcl-")]
    asked = [
        {
            "id": r["id"].removeprefix("bfcl-"),
            "question": [r["messages"]],
            "function": [t["function"] for t in r["tools"]],
        }
        for r in rows
    ]
    (tmp_path / "BFCL_v4_some.json").write_text("\n".join(map(json.dumps, asked)))
    suite = read_suite(tmp_path / "BFCL_v4_some.json")
    assert len(suite.items()) == len(rows) == 340
    for item in suite.items()[::6]:
        for tool in item.tools:
            Draft202012Validator.check_schema(tool["function"]["parameters"])
    assert {name for item in suite.items() for name in item.slices} >= {"bfcl:multiple", "bfcl:irrelevance"}


def test_the_catalog_opens_suites_by_name_and_by_file(tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps(USER))
    suites = open_suites(["contracts", "json", str(tmp_path / "mine.jsonl")], Choice())
    assert [suite.name for suite in suites] == ["contracts", "json", "mine"]
    with pytest.raises(UsageError, match=r"none of tool-loop, tool-loop-deep, contracts, json.*and no file"):
        open_suites(["jsn"], Choice())
    with pytest.raises(DataError, match="cannot be read"):
        open_suites([str(tmp_path / "none.jsonl")], Choice())


def test_the_contracts_are_the_same_each_time_all_different_and_have_sound_scores():
    items = contracts().items()
    assert [item.digest() for item in items] == [item.digest() for item in contracts().items()]
    assert len({item.messages[0]["content"] for item in items}) == len(items) == 20 * len(CONTRACTS)
    assert [fault for item in items for fault in faults(item.score)] == []
    slices = Counter(name for item in items for name in item.slices)
    for name in ("json", "copy", "arithmetic", "grounded:missing", "grounded:contradicting", "instructions",
                 "refusal:due", "refusal:undue", "language:zh", "languages:crossed", "long"):  # fmt: skip
        assert slices[name] >= 2


def test_more_contracts_keep_the_earlier_ones():
    few, many = contracts("grounded", 8).items(), contracts("grounded", 16).items()
    assert [item.digest() for item in few] == [item.digest() for item in many[:8]]


def test_languages_and_refusals_are_told_right_in_every_document_that_ships_for_compare():
    for record in map(json.loads, BUILTIN_FILE.read_text(encoding="utf-8").splitlines()):
        answers = [m["content"] for m in record["messages"] if m["role"] == "assistant" and m["content"]]
        tags = [name.removeprefix("language:") for name in record["slices"] if name.startswith("language:")]
        assert [language_of(text) for text in answers if tags] == tags * (len(answers) if tags else 0)
        due = "refusal:due" in record["slices"]
        assert refuses(answers[0]) == due and (due or not any(map(refuses, answers))), record["id"]


def test_the_docs_name_every_kind_of_score_and_of_question(root):
    text = (root / "docs" / "commands" / "eval.md").read_text(encoding="utf-8")
    assert [name for name in [*KINDS, *CONTRACTS] if f"`{name}`" not in text] == []


def test_the_docs_example_of_an_item_is_one(root, tmp_path):
    text = (root / "docs" / "commands" / "eval.md").read_text(encoding="utf-8")
    (line,) = [row for row in text.splitlines() if row.startswith('{"id": "sum-1"')]
    (tmp_path / "mine.jsonl").write_text(line)
    (item,) = read_suite(tmp_path / "mine.jsonl").items()
    assert judged(item.score, told("Answer: 42")).passed


class Scripted:
    """A side that says what it was told to; all else is the real run."""

    def __init__(self, name: str, text: str) -> None:
        self.variant, self.text = Variant(name, "build", name, "script", {}), text

    def open(self) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {"name": self.variant.name}

    def ask(self, request: Any) -> Reply:
        return told(self.text)


def test_a_suite_of_ones_own_runs_to_a_record_with_its_checks_and_slices(tmp_path):
    schema = {"kind": "json_schema", "schema": {"type": "object"}}
    rows = [{**USER, "slices": ["sum"]}, {**USER, "score": schema, "slices": ["json"]}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sides = [Scripted("a", "4"), Scripted("b", '{"x": 5}')]
    record = evaluate(sides, [read_suite(tmp_path / "mine.jsonl")], EvalSettings())
    (b,) = record["candidates"]
    found = {(m["metric"], m.get("slice")): m["estimate"] for m in b["measurements"]}
    assert found[("pass", "json")] == 1 and found[("pass", "sum")] == 0 and found[("valid_json", "json")] == 1
    assert record["suites"][0]["about"] == {"format": "mlxquant", "file": "mine.jsonl"}


def answer(item: Item) -> str | None:
    """The answer that a program can make from an item's score; None where it takes a writer."""

    def of(spec: dict[str, Any]) -> str | None:
        kind = spec["kind"]
        if kind == "all":
            return next(filter(None, map(of, spec["of"])), None) if item.id.startswith(("long", "grounded")) else None
        if kind == "lines" and "answer" in spec:
            return "\n".join(spec["answer"])
        if kind == "json_schema":
            return json.dumps(spec["equals"])
        if kind in ("exact", "number", "contains"):
            given = spec["all"] if kind == "contains" else spec["answer"]
            return f"Answer: {given}" if kind == "number" else given[0]
        return None

    return of(dict(item.score))


def test_every_determined_contract_passes_its_answer_and_fails_another_items():
    items = [item for item in contracts().items() if not item.id.startswith("long") or "Tell a story" not in str(item)]
    answers = {item.id: answer(item) for item in items}
    determined = [item for item in items if answers[item.id]]
    assert len(determined) >= 90
    for item, other in zip(determined, determined[1:] + determined[:1], strict=True):
        assert judged(item.score, told(answers[item.id] or ""), item.tools).passed, item.id
        if answers[item.id] != answers[other.id]:
            assert not judged(item.score, told(answers[other.id] or ""), item.tools).passed, item.id
        assert not judged(item.score, told(""), item.tools).passed, item.id


def test_instructions_can_be_kept_together():
    words = "here stands a plain thing of wood and iron for all"
    for item in contracts("instructions", 40).items():
        rules = {spec["kind"]: spec for spec in item.score["of"][1:]}
        ones = [w for spec in item.score["of"] for w in spec.get("all", [])]
        ones += [spec["of"] for spec in item.score["of"] if spec["kind"] == "count" for _ in range(spec["min"])]
        least = max([spec.get("min", 0) for spec in item.score["of"] if spec["kind"] == "words"])
        text = " ".join([words, *ones])
        while len(text.split()) < least:
            text += " " + words.split()[0]
        marker = "* " if any("each" in spec for spec in item.score["of"]) else ""
        count = next((spec["count"] for spec in item.score["of"] if "count" in spec), 1)
        parts = text.split()
        lines = [parts[i::count] for i in range(count)]
        text = "\n".join(marker + " ".join(line) for line in lines)
        text += f" {rules['ends']['with']}" if "ends" in rules else ""
        assert judged(item.score, told(text)).passed, (item.id, judged(item.score, told(text)).said, text)
