"""BFCL's question files as a suite: read as they are, scored by its answer files where those lie beside.

`BFCL_v4_CATEGORY.json` has a question a line (`id`, `question`: turns of messages, `function`: schemas);
`possible_answer/` beside it, or a file given, has `id` and `ground_truth` (ShishirPatil/gorilla@6ea57973,
berkeley-function-call-leaderboard/bfcl_eval/data). Schemas use types of Python; they become JSON Schema. Dots in names
become underscores, since OpenAI's API allows none. Questions of several turns, memory and web search need BFCL's own
worlds and are refused; Java's and JavaScript's answers are in those languages' notation, so that their calls are scored
by their schemas only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...words.text import listed
from ..items import Item, Questions
from .scoring import score_of
from .table_lines import read_tables

_TYPES = {
    **dict.fromkeys(("dict", "hashmap", "object"), "object"),
    **dict.fromkeys(("float", "double", "number"), "number"),
    **dict.fromkeys(("long", "short", "byte", "bigint", "integer", "int"), "integer"),
    **dict.fromkeys(("tuple", "list", "array", "arraylist", "set", "queue", "stack"), "array"),
    **dict.fromkeys(("string", "char"), "string"),
    "boolean": "boolean",
    "null": "null",
}
MAX_TOKENS = 1024
_FOREIGN = ("java", "javascript")
_WORLDS = ("initial_config", "involved_classes", "scenario", "missed_function")


def is_bfcl(record: Mapping[str, Any]) -> bool:
    """Whether a line is a question of BFCL's."""
    return "question" in record and "messages" not in record


def read_bfcl(path: Path, answers: Path | None = None, *, max_tokens: int | None = None) -> Questions:
    """Read a question file, and the answers beside it if there are any. Raises DataError with every faulty line."""
    rows = read_tables(path)
    beside = answers or path.parent / "possible_answer" / path.name
    known = _answers(beside) if answers or beside.is_file() else {}
    problems: list[str] = []
    items = []
    for number, row in rows:
        try:
            items.append(_item(row, known, path.stem, max_tokens or MAX_TOKENS))
        except ValueError as fault:
            problems.append(f"{path}, line {number}: {fault}")
    if problems:
        raise DataError(listed(problems))
    by_answers = sum("answers" in item.score for item in items)
    about = {"format": "BFCL", "file": path.name, "scored_by_answers": by_answers,
             "scored_by_schema_only": sum(_schema_only(item) for item in items)}  # fmt: skip
    return Questions(path.stem, tuple(items), score_of, about)


def _schema_only(item: Item) -> bool:
    return "answers" not in item.score and not item.score["category"].endswith("relevance")


def _answers(path: Path) -> dict[str, Any]:
    return {str(row.get("id")): row.get("ground_truth") for _, row in read_tables(path)}


def category_of(name: str) -> str:
    """The category in an id.

    >>> category_of("live_simple_12-3-0"), category_of("parallel_multiple_7")
    ('live_simple', 'parallel_multiple')
    """
    return re.sub(r"_\d+(?:-\d+)*$", "", name)


def _item(row: Mapping[str, Any], known: Mapping[str, Any], suite: str, max_tokens: int) -> Item:
    name = row.get("id")
    if not isinstance(name, str):
        raise ValueError('"id" must be text')
    turns, functions = row.get("question"), row.get("function", [])
    if any(key in row for key in _WORLDS) or (isinstance(turns, list) and len(turns) != 1):
        raise ValueError(f"{name}: takes several turns or a world of BFCL's own, which only its own runner has")
    if not isinstance(turns, list) or not isinstance(turns[0], list) or not turns[0]:
        raise ValueError(f'{name}: "question" must be a list with one list of messages')
    functions = [functions] if isinstance(functions, dict) else functions
    if not isinstance(functions, list) or not all(isinstance(f, dict) and "name" in f for f in functions):
        raise ValueError(f'{name}: "function" must be a list of schemas')
    category = category_of(name)
    score: dict[str, Any] = {"kind": "bfcl", "category": category}
    truth = known.get(name)
    if isinstance(truth, list) and truth and all(isinstance(t, dict) and len(t) == 1 for t in truth):
        if not category.endswith(_FOREIGN):
            score["answers"] = [{_name(k): v for k, v in answer.items()} for answer in truth]
    elif truth is not None:
        raise ValueError(f'{name}: its "ground_truth" must be a list of {{name: {{parameter: values}}}}')
    tools = tuple({"type": "function", "function": _function(f)} for f in functions)
    return Item(name, suite, tuple(turns[0]), ("tool_call", f"bfcl:{category}"), tools, max_tokens, score)


def _name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = as_json_schema(function.get("parameters") or {"type": "dict", "properties": {}})
    return {"name": _name(function["name"]), "description": function.get("description", ""), "parameters": parameters}


def as_json_schema(schema: Any) -> Any:
    """Replace BFCL's names of types by JSON Schema's; one that is not known, such as "any", allows everything.

    >>> as_json_schema({"type": "dict", "properties": {"x": {"type": "float"}, "y": {"type": "any"}}})
    {'type': 'object', 'properties': {'x': {'type': 'number'}, 'y': {}}}
    """
    if not isinstance(schema, dict):
        return schema
    converted: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str):
            known = _TYPES.get(value.lower())
            converted |= {"type": known} if known else {}
        elif key == "properties" and isinstance(value, dict):
            converted[key] = {name: as_json_schema(each) for name, each in value.items()}
        elif key in ("items", "additionalProperties"):
            converted[key] = as_json_schema(value)
        elif key not in ("optional", "format", "required") or (key == "required" and isinstance(value, list)):
            converted[key] = value
    return converted
