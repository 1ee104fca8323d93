"""Whether a call's arguments are among those that a BFCL answer allows.

An answer lists, for each parameter, all values that are right; "" among them means that it may be left out. Rules
after ShishirPatil/gorilla@6ea57973 (bfcl_eval/eval_checker/ast_eval/ast_checker.py), in our own words: texts are
compared without case, spaces and `,./-_*^`; a value's type is that of the schema, or of the answer where that has
a text for an expression. Other than there, a whole number stands for a float at any depth: JSON has one kind of number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
