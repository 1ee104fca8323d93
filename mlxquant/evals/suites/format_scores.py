"""Scores of a reply's form: JSON to a schema, long numbered lists, repetition, an end of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from ..items import Reply, Score
from .scores_text import said, verdict

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL)
_ENTRY = re.compile(r"(\d+)[.):]\s+(.*)")


def json_schema(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the whole reply is JSON, alone or in one code block, fits the schema and equals `equals` if given.

    `bare` allows no code block. NaN and infinity are no JSON.
    """
    from jsonschema import Draft202012Validator

    text = reply.text.strip()
    fenced = _FENCED.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced and not spec.get("bare") else text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return verdict(False, f"no JSON: {said(text)}", valid_json=False, valid_schema=False)
    fault = next(iter(Draft202012Validator(spec["schema"]).iter_errors(value)), None)
    if fault is not None:
        where = "/".join(map(str, fault.absolute_path)) or "the value"
        return verdict(False, f"{where}: {fault.message[:100]}", valid_json=True, valid_schema=False)
    passed = "equals" not in spec or same_json(value, spec["equals"])
    return verdict(passed, f"another value: {said(text)}", valid_json=True, valid_schema=True)


def _no_json(name: str) -> NoReturn:
    raise ValueError(name)


def same_json(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_json(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def schema_faults(schema: Any) -> list[str]:
    """What is wrong with a JSON schema."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return [f'"schema" is no JSON schema: {error.message[:120]}']
    return []


def numbered(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the lines are numbered 1 to N and nothing else, each entry matching, all different if `distinct`.

    Checks: `complete`, it reached N; `format_kept`, until then no line was out of form; `distinct`.
    """
    found = [line.strip() for line in reply.text.splitlines() if line.strip()]
    entries, off = 0, ""
    seen: set[str] = set()
    for line in found:
        entry = _ENTRY.fullmatch(line)
        if not entry or int(entry[1]) != entries + 1 or not re.fullmatch(spec.get("each", ".*"), entry[2]):
            off = f"line {entries + 1}: {said(line)}"
            break
        seen.add(entry[2].casefold())
        entries += 1
    checks = {"complete": entries >= spec["to"], "format_kept": not off and entries <= spec["to"]}
    if spec.get("distinct"):
        checks["distinct"] = len(seen) == entries
    why = off or ("an entry stands twice" if checks["complete"] else f"ends after {entries} of {spec['to']}")
    return verdict(all(checks.values()), why, **checks)


def repetition(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where at most a share of `max` of the word n-grams (of `n`, 6 if not said) stood in the reply before.

    ``1 - unique / all``: 0 for a text that never repeats six words in a row, near 1 for a loop. Scripts without spaces
    are counted by characters. A reply of fewer than n words repeats nothing.
    """
    n = spec.get("n", 6)
    share = repeated_share(reply.text, n)
    passed = share <= spec["max"]
    why = f"{share:.0%} of runs of {n} stood there before, {spec['max']:.0%} allowed"
    return verdict(passed, why, not_repetitive=passed)


def repeated_share(text: str, n: int) -> float:
    """The share of n-grams that stood in the text before.

    >>> repeated_share("a b c d a b c d a b c d", 2)
    0.6363636363636364
    """
    words = text.split()
    if len(text) > 12 * len(words):  # no spaces between words
        words = [c for c in text if not c.isspace()]
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def complete(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the reply ended by itself, not at the limit of tokens, and not too early."""
    words = len(reply.text.split())
    least = spec.get("min_words", 1)
    ended = reply.finish_reason != "length"
    why = "cut off at the limit of tokens" if not ended else f"ends after {words} words, {least} expected"
    return verdict(ended and words >= least, why, complete=ended and words >= least)
