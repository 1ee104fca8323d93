"""Judge a reply by what an item's `score` says: a table with a `kind` and what that kind needs.

`KINDS` is all that there is. Each judges from the reply and the tools that were at hand alone; reasoning counts for
nothing. A score that a user wrote is checked before anything is asked (`faults`).
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ...errors import MeasurementError
from ..items import Item, Reply, Score
from . import scores_calls as call_scores
from . import scores_text as format_scores
from . import scores_text as language_scores
from . import scores_text as text_scores

Tools = Sequence[Mapping[str, Any]]
Judge = Callable[[Mapping[str, Any], Reply, Tools], Score]
LONGEST = 10.0  # seconds to judge one reply
_TEXTS = "a list of texts"


@dataclass(frozen=True, slots=True)
class Kind:
    """A way of judging: what it says of a reply, and the keys that its table needs or may have, by their type."""

    judge: Judge
    about: str
    needs: Mapping[str, Any] = field(default_factory=dict)
    may: Mapping[str, Any] = field(default_factory=dict)


def _all(spec: Mapping[str, Any], reply: Reply, tools: Tools) -> Score:
    """Pass where every one of several scores passes; the checks of all, and what failed first."""
    scores = [judged(each, reply, tools) for each in spec["of"]]
    checks: dict[str, bool] = {}
    for score in scores:
        for name, passed in score.checks.items():
            checks[name] = checks.get(name, True) and passed
    return Score(all(s.passed for s in scores), checks, next((s.said for s in scores if not s.passed), ""))


_NUMBER = (int, float)
KINDS: Mapping[str, Kind] = {
    "exact": Kind(text_scores.exact, "is one of the answers, white space around it aside", {"answer": (str, _TEXTS)},
                  {"case": bool}),
    "contains": Kind(text_scores.contains, "has all, any, none of these words or names", {},
                     {"all": _TEXTS, "any": _TEXTS, "none": _TEXTS, "case": bool}),
    "regex": Kind(text_scores.regex, "matches a pattern somewhere, or as a whole", {"pattern": str}, {"full": bool}),
    "number": Kind(text_scores.number, 'ends in this number, or has it after the last "Answer:"', {"answer": _NUMBER},
                   {"tolerance": _NUMBER}),
    "lines": Kind(text_scores.lines, "consists of these lines, or of so many, each matching a pattern", {},
                  {"answer": _TEXTS, "any_order": bool, "count": int, "each": str}),
    "words": Kind(text_scores.words, "has so many words", {}, {"min": int, "max": int}),
    "count": Kind(text_scores.count, "has a word so many times", {"of": str}, {"min": int, "max": int, "case": bool}),
    "starts": Kind(text_scores.starts, "begins with this", {"with": str}),
    "ends": Kind(text_scores.ends, "ends with this", {"with": str}),
    "case": Kind(text_scores.case, "is all in upper or all in lower case", {"is": str}),
    "json_schema": Kind(format_scores.json_schema, "is JSON that fits a schema, and equals a value if one is given",
                        {"schema": (dict, bool)}, {"equals": object, "bare": bool}),
    "numbered": Kind(format_scores.numbered, "is a list numbered from 1 to N, each entry matching a pattern",
                     {"to": int}, {"each": str, "distinct": bool}),
    "repetition": Kind(format_scores.repetition, "does not repeat itself: share of word n-grams seen before",
                       {"max": _NUMBER}, {"n": int}),
    "complete": Kind(format_scores.complete, "came to its end by itself, with so many words at least", {},
                     {"min_words": int}),
    "language": Kind(language_scores.language, "is written in a language", {"language": str},
                     {"min_letters": int}),
    "refusal": Kind(language_scores.refusal, "refuses, or does not", {"expected": bool}),
    "calls": Kind(call_scores.calls, "calls these tools with these arguments, or none", {},
                  {"calls": list, "none": bool, "any_order": bool}),
    "bfcl": Kind(call_scores.bfcl, "calls tools as BFCL's possible answers allow", {"category": str},
                 {"answers": list}),
    "all": Kind(_all, "passes each of several scores", {"of": list}),
}  # fmt: skip


def judged(spec: Mapping[str, Any], reply: Reply, tools: Tools = ()) -> Score:
    """Judge a reply by a score's table."""
    return KINDS[spec["kind"]].judge(spec, reply, tools)


def score_of(item: Item, reply: Reply) -> Score:
    """Judge a reply to an item, as `Questions` asks for it. Raises MeasurementError where that takes too long."""
    with _within(LONGEST):
        return judged(item.score, reply, item.tools)


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Break off what takes longer: some patterns of a suite take for ever on some replies, and no signal ends that.

    Only the process's first thread can be interrupted so; in another one nothing is bounded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: object) -> NoReturn:
        raise MeasurementError(
            "unscored", f"not judged within {seconds:g} s: a pattern of its score takes too long on this reply"
        )

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def faults(spec: Any, where: str = '"score"') -> list[str]:
    """All that is wrong with a score's table.

    >>> faults({"kind": "number", "answer": "12", "tol": 1})
    ['"score": "answer" of kind number must be a number, found "12"', '"score": kind number has no key "tol"']
    """
    if not isinstance(spec, dict):
        return [f'{where} must be a table with "kind"']
    kind = KINDS.get(spec["kind"]) if isinstance(spec.get("kind"), str) else None
    if kind is None:
        return [f'{where}: "kind" must be one of {", ".join(KINDS)}; found {spec.get("kind")!r}']
    name, known = spec["kind"], {**kind.needs, **kind.may}
    problems = [f'{where}: kind {name} needs "{key}"' for key in kind.needs if key not in spec]
    for key, value in spec.items():
        if key != "kind" and key not in known:
            problems.append(f'{where}: kind {name} has no key "{key}"')
        elif key != "kind" and not _fits(value, known[key]):
            shown = f'"{value}"' if isinstance(value, str) else repr(value)[:60]
            problems.append(f'{where}: "{key}" of kind {name} must be {_what(known[key])}, found {shown}')
    return problems or _deeper(spec, where)


def _fits(value: Any, wanted: Any) -> bool:
    if wanted is object:
        return True
    if wanted == _TEXTS:
        return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)
    if isinstance(wanted, tuple):
        return any(_fits(value, each) for each in wanted)
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))


def _what(wanted: Any) -> str:
    names = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}
    if wanted == _NUMBER:
        return "a number"
    if isinstance(wanted, tuple):
        return " or ".join(_what(each) for each in wanted)
    return wanted if isinstance(wanted, str) else names[wanted]


def _deeper(spec: Mapping[str, Any], where: str) -> list[str]:
    """What only shows in the values: patterns that do not compile, schemas that are none, scores within scores."""
    problems = []
    for key in ("pattern", "each"):
        try:
            re.compile(spec.get(key, ""))
        except (re.error, OverflowError, RecursionError) as error:
            problems.append(f'{where}: "{key}" is no regular expression ({error})')
    if spec["kind"] == "all":
        problems += [fault for n, each in enumerate(spec["of"], 1) for fault in faults(each, f"{where} {n}")]
    if spec["kind"] == "json_schema":
        problems += [f"{where}: {fault}" for fault in format_scores.schema_faults(spec["schema"])]
    if spec["kind"] == "language" and spec["language"] not in language_scores.LANGUAGES:
        known = ", ".join(language_scores.LANGUAGES)
        problems.append(f'{where}: "language" must be one of {known}; found "{spec["language"]}"')
    if spec["kind"] == "case" and spec["is"] not in ("upper", "lower"):
        problems.append(f'{where}: "is" must be upper or lower, found "{spec["is"]}"')
    if spec["kind"] == "calls":
        problems += [f"{where}: {fault}" for fault in call_scores.spec_faults(spec)]
    return problems
