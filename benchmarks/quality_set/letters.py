"""Letters in five languages: a question, sentences in drawn order, and a second question. CC0 1.0."""

from __future__ import annotations

from random import Random
from typing import Any

from benchmarks.quality_set.languages import LANGUAGES, Language

Record = dict[str, Any]


def letters(draw: Random, each: int) -> list[Record]:
    """So many conversations in each language."""
    return [_letter(draw, language, n) for language in LANGUAGES for n in range(each)]


def _letter(draw: Random, language: Language, n: int) -> Record:
    a, b = draw.sample(language.people, 2)
    t, u = draw.sample(language.towns, 2)
    said = draw.sample(language.says, 12)
    asked = [draw.choice(language.asks), draw.choice(language.more)]
    fixed = {"a": a, "b": b, "t": t, "u": u, "x": draw.choice(language.things), "q": draw.randrange(10**6, 10**7)}
    written = [_filled(draw, language, text, fixed) for text in (*asked, *said)]
    middle = 2 + draw.randrange(6, 9)
    messages = [
        {"role": "user", "content": written[0]},
        {"role": "assistant", "content": language.join.join(written[2:middle])},
        {"role": "user", "content": written[1]},
        {"role": "assistant", "content": language.join.join(written[middle:])},
    ]
    return {"id": f"language-{language.code}-{n}", "slices": [f"language:{language.code}"], "messages": messages}


def _filled(draw: Random, language: Language, text: str, fixed: dict[str, Any]) -> str:
    """Fill a sentence; days and numbers are drawn anew for each."""
    d, e = draw.sample(language.days, 2)
    numbers = {
        "n": draw.randrange(20, 400),
        "m": draw.randrange(3, 19),
        "k": draw.randrange(4, 20),
        "h": draw.randrange(5, 12),
    }
    return text.format(d=d, D=d.capitalize(), e=e, **numbers, **fixed)
