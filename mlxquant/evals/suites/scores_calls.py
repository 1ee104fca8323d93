"""Scores of tool calls: against the calls that are due, or against what BFCL's answer files allow.

Arguments are JSON as the model wrote it. Checks are those of loops: `valid_call` (there is one, all could be read),
`valid_json`, `valid_schema`, `right_tool`, `right_arguments`, each presupposing those before it.

A BFCL answer lists, for each parameter, all values that are right; "" among them means that it may be left out. Rules
after ShishirPatil/gorilla@6ea57973 (bfcl_eval/eval_checker/ast_eval/ast_checker.py), in our own words: texts are
compared without case, spaces and `,./-_*^`; a value's type is that of the schema, or of the answer where that has
a text for an expression. Other than there, a whole number stands for a float at any depth: JSON has one kind of number.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...words.strict_json import read_json
from ..items import Reply, Score
from .scores_text import said, same_json, schema_fault, verdict

# --- values that a BFCL answer allows ---


_NOISE = re.compile(r"[ ,./\-_*^]")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "array": (list,), "object": (dict,),
}  # fmt: skip


def matches(arguments: Any, allowed: Mapping[str, list[Any]], schema: Mapping[str, Any]) -> bool:
    """Whether every argument is allowed, and every one that may not be left out is there."""
    if not isinstance(arguments, dict):
        return False
    properties = schema.get("properties", {})
    if any(name not in arguments for name in schema.get("required", ())):
        return False
    if any(name not in arguments and "" not in values for name, values in allowed.items()):
        return False
    return all(
        name in allowed and name in properties and _allowed(value, allowed[name], properties[name])
        for name, value in arguments.items()
    )


def _allowed(value: Any, values: list[Any], schema: Mapping[str, Any]) -> bool:
    return any(_same(value, each) for each in values) and _typed(value, values, schema)


def _typed(value: Any, values: list[Any], schema: Mapping[str, Any]) -> bool:
    """Whether the type is the schema's or that of the first value that is one."""
    wanted = schema.get("type")
    types = _TYPES.get(wanted, (object,)) if isinstance(wanted, str) else (object,)
    first = next((each for each in values if each != ""), None)
    return (isinstance(value, types) and (bool in types or not isinstance(value, bool))) or type(value) is type(first)


def _same(value: Any, answer: Any) -> bool:
    """Whether a value is an answer's, texts compared by their letters and digits."""
    if isinstance(value, str) and isinstance(answer, str):
        return _plain(value) == _plain(answer)
    if isinstance(value, bool) or isinstance(answer, bool):
        return value is answer
    if isinstance(value, list) and isinstance(answer, list):
        return len(value) == len(answer) and all(_same(a, b) for a, b in zip(value, answer, strict=True))
    if isinstance(value, dict) and isinstance(answer, dict):  # here each key lists its own values again
        listed = {key: each if isinstance(each, list) else [each] for key, each in answer.items()}
        return all(key in listed and any(_same(v, each) for each in listed[key]) for key, v in value.items()) and all(
            key in value or "" in each for key, each in listed.items()
        )
    return bool(value == answer)


def _plain(text: str) -> str:
    return _NOISE.sub("", text).lower().replace("'", '"')


# --- scores ---


Tools = Sequence[Mapping[str, Any]]
Parsed = tuple[str, Any]  # name, arguments; arguments None where they are no JSON table


def parsed_calls(reply: Reply) -> list[Parsed]:
    """The calls of a reply, their arguments read."""
    calls: list[Parsed] = []
    for call in reply.tool_calls:
        try:
            arguments = read_json(call.arguments or "{}")
        except ValueError:
            arguments = None
        calls.append((call.name, arguments if isinstance(arguments, dict) else None))
    return calls


def formally(reply: Reply, tools: Tools) -> tuple[dict[str, bool], str]:
    """The first three checks, and what was wrong first."""
    calls = parsed_calls(reply)
    known = {function["name"]: function for function in (tool["function"] for tool in tools)}
    if not calls or reply.broken_calls:
        shown = reply.broken_calls[0] if reply.broken_calls else reply.text
        checks = dict.fromkeys(("valid_call", "valid_json", "valid_schema"), False)
        return checks, f"a call could not be read: {said(shown)}" if reply.broken_calls else f"no call: {said(shown)}"
    why = next((f"{name}: arguments are no JSON table" for name, arguments in calls if arguments is None), "")
    valid_json = not why
    for name, arguments in calls:
        if not why:
            why = _schema_fault(known.get(name), name, arguments)
    return {"valid_call": True, "valid_json": valid_json, "valid_schema": not why}, why


def _schema_fault(function: Mapping[str, Any] | None, name: str, arguments: Any) -> str:
    if function is None:
        return f"{said(name)}: no such tool"
    fault = schema_fault(function.get("parameters") or {}, arguments)
    return f"{name}: {fault}" if fault else ""


def calls(spec: Mapping[str, Any], reply: Reply, tools: Tools) -> Score:
    """Pass where exactly the calls that are due are made; `none`: where none is, not even one that cannot be read."""
    if spec.get("none"):
        attempts = [call.name for call in reply.tool_calls] or list(reply.broken_calls)
        return verdict(not attempts, f"called {said(attempts[0]) if attempts else ''}", no_call=not attempts)
    checks, why = formally(reply, tools)
    due = [(call["name"], call["arguments"]) for call in spec["calls"]]
    made_calls = parsed_calls(reply)
    if spec.get("any_order"):
        due, made_calls = sorted(due, key=_order), sorted(made_calls, key=_order)
    names = [name for name, _ in due], [name for name, _ in made_calls]
    right_tool = checks["valid_schema"] and names[0] == names[1]
    right = right_tool and all(same_json(a, b) for (_, a), (_, b) in zip(due, made_calls, strict=True))
    if not why and not right:
        why = f"{', '.join(names[0])} expected, {', '.join(names[1])} called" if not right_tool else "other arguments"
    return verdict(right, why, **checks, right_tool=right_tool, right_arguments=right)


def _order(call: Parsed) -> tuple[str, str]:
    return call[0], json.dumps(call[1], sort_keys=True)


def spec_faults(spec: Mapping[str, Any]) -> list[str]:
    """What is wrong with the calls that a score names."""
    if ("calls" in spec) == bool(spec.get("none")):
        return ['kind calls needs either "calls" or "none": true']
    wrong = [
        each for each in spec.get("calls", ())
        if not isinstance(each, dict) or not isinstance(each.get("name"), str)
        or not isinstance(each.get("arguments"), dict)
    ]  # fmt: skip
    if spec.get("calls") == []:
        return ['"calls" is empty; say "none": true where no call is due']
    return [f'"calls" must be tables of "name" and "arguments", found {str(each)[:60]}' for each in wrong[:1]]


def bfcl(spec: Mapping[str, Any], reply: Reply, tools: Tools) -> Score:
    """Pass as BFCL's rules have it for the category; without `answers`, where every call fits its schema.

    Irrelevance: no call is made, nor tried. Relevance: some call is. Else as many calls as answers, in any order, each
    allowed by an answer of its own (ShishirPatil/gorilla@6ea57973, eval_checker/ast_eval/ast_checker.py).
    """
    category = spec["category"]
    if category.endswith("irrelevance"):
        return calls({"none": True}, reply, tools)
    checks, why = formally(reply, tools)
    if category.endswith("relevance"):
        return verdict(checks["valid_call"], why, **checks)
    if "answers" not in spec:
        return verdict(checks["valid_schema"], why, **checks)
    # BFCL reads types its own way, so a call may break the schema as JSON Schema has it and still be right
    attempts = parsed_calls(reply)
    due = [next(iter(answer.items())) for answer in spec["answers"]]
    right_tool = Counter(name for name, _ in due) == Counter(name for name, _ in attempts) and checks["valid_json"]
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    right = right_tool
    for name, allowed in due:
        fits = (call for call in attempts if call[0] == name and matches(call[1], allowed, schemas.get(name, {})))
        match = next(fits, None) if right else None
        right = match is not None
        if match is not None:
            attempts.remove(match)
    if not right:
        why = why or f"{', '.join(n for n, _ in due)} expected, {', '.join(c.name for c in reply.tool_calls)} called"
        why = f"{due[0][0]}: arguments that no answer allows" if right_tool else why
    return verdict(right, why, **checks, right_tool=right_tool, right_arguments=right)
