"""Scores of a reply's text: answers, words, numbers, lines, counts, beginnings and ends.

White space around a reply never counts. Names and ids are found as wholes: 417 is not in 4170, nor in A417.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ..items import Reply, Score

_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w])")
_ANSWER = re.compile(r"answer\s*(?:is\s*)?[:=]", re.IGNORECASE)
_WORD = re.compile(r"\w+(?:['’\-]\w+)*")
_SHOWN = 60


def said(text: str) -> str:
    """The beginning of a reply, for a reason."""
    text = " ".join(text.split())
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def verdict(passed: bool, why: str, **checks: bool) -> Score:
    """A score whose reason stands only where it failed."""
    return Score(passed, checks, "" if passed else why)


def exact(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the reply is an answer and nothing else."""
    answers = [spec["answer"]] if isinstance(spec["answer"], str) else spec["answer"]
    fold = str if spec.get("case", True) else str.casefold
    passed = fold(reply.text.strip()) in {fold(answer.strip()) for answer in answers}
    return verdict(passed, f"{said(answers[0])} expected, {said(reply.text)} found")


def occurrences(words: str, text: str, case: bool = True) -> int:
    """How often words stand in a text as wholes; letters of other scripts may touch them."""
    pattern = rf"(?<![A-Za-z0-9_]){re.escape(words)}(?![A-Za-z0-9_])"
    if not words[:1].isalnum():
        pattern = pattern.removeprefix("(?<![A-Za-z0-9_])")
    if not words[-1:].isalnum():
        pattern = pattern.removesuffix("(?![A-Za-z0-9_])")
    return len(re.findall(pattern, text, 0 if case else re.IGNORECASE))


def contains(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where all of `all`, at least one of `any` and none of `none` are there."""
    case = spec.get("case", False)
    missing = [words for words in spec.get("all", ()) if not occurrences(words, reply.text, case)]
    unwanted = [words for words in spec.get("none", ()) if occurrences(words, reply.text, case)]
    some = spec.get("any", [])
    if missing:
        return verdict(False, f"{missing[0]!r} is missing")
    if unwanted:
        return verdict(False, f"{unwanted[0]!r} is there")
    none_of = bool(some) and not any(occurrences(words, reply.text, case) for words in some)
    return verdict(not none_of, f"none of {', '.join(map(repr, some))} is there")


def regex(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the pattern matches."""
    match = re.fullmatch if spec.get("full") else re.search
    passed = match(spec["pattern"], reply.text.strip(), re.DOTALL) is not None
    return verdict(passed, f"{said(reply.text)} does not match {spec['pattern']}")


def number(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the number after the last "Answer:", or else the reply's last number, is the answer.

    Compared as decimals, so that 12.50 is 12.5; 1,250 is 1250. `tolerance` is absolute.
    """
    text = reply.text
    for found in _ANSWER.finditer(text):
        text = reply.text[found.end() :]
    numbers = _NUMBER.findall(text)
    if not numbers:
        return verdict(False, f"no number in {said(reply.text)}")
    given = Decimal((numbers[0] if text is not reply.text else numbers[-1]).replace(",", "").replace("−", "-"))
    off = abs(given - Decimal(str(spec["answer"])))
    return verdict(off <= Decimal(str(spec.get("tolerance", 0))), f"{spec['answer']} expected, {given} found")


def lines(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the lines that are not blank are these, or so many, and each matches a pattern as a whole."""
    found = [line.strip() for line in reply.text.splitlines() if line.strip()]
    if "answer" in spec:
        wanted = [line.strip() for line in spec["answer"]]
        if spec.get("any_order"):
            return verdict(Counter(found) == Counter(wanted), f"{_first_missing(wanted, found)}")
        at = next((i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), None)
        if at is not None:
            return verdict(False, f"line {at + 1}: {wanted[at]!r} expected, {said(found[at])} found")
        return verdict(len(found) == len(wanted), f"{len(wanted)} lines expected, {len(found)} found")
    if "count" in spec and len(found) != spec["count"]:
        return verdict(False, f"{spec['count']} lines expected, {len(found)} found")
    off = [line for line in found if "each" in spec and not re.fullmatch(spec["each"], line)]
    return verdict(not off and bool(found), f"line {said(off[0])} does not match" if off else "no lines")


def _first_missing(wanted: list[str], found: list[str]) -> str:
    missing = list((Counter(wanted) - Counter(found)).elements())
    return f"line {missing[0]!r} is missing" if missing else f"{len(wanted)} lines expected, {len(found)} found"


def words(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the number of words lies within `min` and `max`; an apostrophe or hyphen joins a word."""
    return _within(spec, len(_WORD.findall(reply.text)), "words")


def count(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where a word stands in the reply so many times."""
    return _within(spec, occurrences(spec["of"], reply.text, spec.get("case", False)), f"times {spec['of']!r}")


def _within(spec: Mapping[str, Any], n: int, what: str) -> Score:
    least, most = spec.get("min", 0), spec.get("max", n)
    wanted = f"{least}" if least == most else f"{least} to {most}" if "max" in spec else f"at least {least}"
    return verdict(least <= n <= most, f"{wanted} {what} expected, {n} found")


def starts(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the reply begins with this."""
    return verdict(reply.text.strip().startswith(spec["with"]), f"begins with {said(reply.text)}")


def ends(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where the reply ends with this."""
    return verdict(reply.text.strip().endswith(spec["with"]), f"ends with {said(reply.text.strip()[-40:])}")


def case(spec: Mapping[str, Any], reply: Reply, _tools: Any = ()) -> Score:
    """Pass where there are letters, and all of them in one case."""
    text = reply.text
    same = text == (text.upper() if spec["is"] == "upper" else text.lower())
    return verdict(same and any(c.isalpha() for c in text), f"{said(text)} is not all in {spec['is']} case")
