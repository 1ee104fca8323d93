"""Our own contract suites: eight kinds of questions, made from a seed that never changes.

`contracts` is all of them, each kind a slice; each kind is also a suite of its own name. Every item is drawn from its
kind and number alone, so asking for more items keeps the earlier ones. Questions with one right value are made here
(JSON to a schema, ids and names to copy, arithmetic, answers from a given text), the others in `contract_texts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from random import Random
from typing import Any

from ..items import Item, Questions
from .contract_texts import (
    code,
    day,
    digits,
    instructions_item,
    languages_item,
    long_item,
    name,
    names,
    refusals_item,
    things,
    towns,
)
from .scoring import score_of

# --- questions with one right value ---


Made = dict[str, Any]  # an item's messages (as one question), slices, score and what else it has
NOT_STATED = "NOT STATED"


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


def json_item(draw: Random, n: int) -> Made:
    """Facts in prose to be given as JSON of a schema; the value is determined."""
    schema, value, sentences = (_person, _order, _stays)[n % 3](draw)
    import json

    question = (
        f"{sentences}\n\nGive this as JSON that fits the schema below. Answer with the JSON alone.\n"
        f"{json.dumps(schema, ensure_ascii=False)}"
    )
    score = {"kind": "json_schema", "schema": schema, "equals": value}
    return {"asked": question, "slices": ("json",), "score": score}


def _person(draw: Random) -> tuple[dict[str, Any], Any, str]:
    who, town, born = name(draw), towns(draw, 1)[0], day(draw)
    member, height = draw.random() < 0.5, draw.randrange(140, 205)
    phone = digits(draw, 11) if draw.random() < 0.7 else None
    value = {"name": who, "town": town, "born": born, "member": member, "height_cm": height, "phone": phone}
    schema = _object({
        "name": {"type": "string"}, "town": {"type": "string"},
        "born": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"},
        "member": {"type": "boolean"}, "height_cm": {"type": "integer"}, "phone": {"type": ["string", "null"]},
    })  # fmt: skip
    sentences = (
        f"{who} lives in {town}, was born on {born}, is {'' if member else 'not '}a member, stands {height} cm tall "
        f"and has {'the phone number ' + phone if phone else 'no phone'}."
    )
    return schema, value, sentences


def _order(draw: Random) -> tuple[dict[str, Any], Any, str]:
    items = [{"thing": t, "count": draw.randrange(1, 40), "cents": draw.randrange(100, 9999)} for t in things(draw, 3)]
    value = {"order": digits(draw, 12), "items": items, "status": draw.choice(("open", "sent", "cancelled"))}
    item = _object(
        {"thing": {"type": "string"}, "count": {"type": "integer", "minimum": 1}, "cents": {"type": "integer"}}
    )
    status = {"enum": ["open", "sent", "cancelled"]}
    schema = _object({"order": {"type": "string"}, "items": {"type": "array", "items": item}, "status": status})
    listed = "; ".join(f"{i['count']} of the {i['thing']} at {i['cents']} cents each" for i in items)
    return schema, value, f"Order number {value['order']} has, in this order: {listed}. Its status: {value['status']}."


def _stays(draw: Random) -> tuple[dict[str, Any], Any, str]:
    stays = [(town, draw.randrange(1, 9), draw.random() < 0.5) for town in towns(draw, draw.randrange(3, 6))]
    sentences = " ".join(
        f"Then {nights} night{'s' * (nights > 1)} in {town}, {'paid' if paid else 'not paid yet'}."
        for town, nights, paid in stays
    )
    stay = _object({"town": {"type": "string"}, "nights": {"type": "integer"}, "paid": {"type": "boolean"}})
    value = [{"town": town, "nights": nights, "paid": paid} for town, nights, paid in stays]
    return {"type": "array", "items": stay}, value, sentences


def copy_item(draw: Random, n: int) -> Made:
    """Long numbers, codes and rare names to be given back exactly."""
    people = names(draw, 8)
    rows = [(who, digits(draw, draw.randrange(12, 21)), code(draw)) for who in people]
    table = "\n".join(f"{who} | {number} | {key}" for who, number, key in rows)
    who, number, key = draw.choice(rows)
    kind = n % 4
    if kind == 0:
        question, answer = f"Write the number of {who} and nothing else.", [number]
    elif kind == 1:
        question, answer = f"Whose code is {key}? Write the name and nothing else.", [who]
    elif kind == 2:
        question = "Write all codes from the last line to the first, one a line and nothing else."
        answer = [row[2] for row in reversed(rows)]
    else:
        question = "Write the number of every second line, beginning with the second, one a line and nothing else."
        answer = [row[1] for row in rows[1::2]]
    return {
        "asked": f"{table}\n\n{question}",
        "slices": ("copy", "numeric"),
        "score": {"kind": "lines", "answer": answer},
    }


def arithmetic_item(draw: Random, n: int) -> Made:
    """Sums, products, shares, days; the answer stands in a last line of its own."""
    question, answer = (_sum, _product, _share, _days)[n % 4](draw)
    question += '\nYou may reckon in steps. End with a line "Answer: N", where N is the number.'
    return {"asked": question, "slices": ("arithmetic", "numeric"), "score": {"kind": "number", "answer": answer}}


def _sum(draw: Random) -> tuple[str, float]:
    numbers = [draw.randrange(100, 10_000) * draw.choice((1, 1, -1)) for _ in range(draw.randrange(4, 7))]
    text = str(numbers[0]) + "".join(f" {'-' if x < 0 else '+'} {abs(x)}" for x in numbers[1:])
    return f"What is {text}?", sum(numbers)


def _product(draw: Random) -> tuple[str, float]:
    a, b, c = draw.randrange(12, 1000), draw.randrange(12, 100), draw.randrange(100, 5000)
    return f"What is {a} times {b}, plus {c}?", a * b + c


def _share(draw: Random) -> tuple[str, float]:
    count, thing = draw.randrange(3, 50), things(draw, 1)[0]
    price, percent = draw.randrange(2, 90) * 20, draw.randrange(1, 16) * 5
    paid = count * price * (100 - percent) / 100
    question = (
        f"{name(draw)} buys {count} {thing}s at {price} crowns each and gets {percent} % off. How many crowns is that?"
    )
    return question, int(paid) if paid == int(paid) else paid


def _days(draw: Random) -> tuple[str, float]:
    first = date(draw.randrange(2021, 2029), draw.randrange(1, 13), draw.randrange(1, 29))
    last = first + timedelta(days=draw.randrange(20, 700))
    return f"How many days is it from {first} to {last}, the first day not counted?", (last - first).days


def grounded_item(draw: Random, n: int) -> Made:
    """A question on a text: a plain fact, one that contradicts the world, one in two steps, one that is missing."""
    a, b, c = towns(draw, 3)
    clerk, smith, guide = names(draw, 3)
    number, year, heat = digits(draw, 9), draw.randrange(1200, 1900), draw.randrange(40, 95)
    legs, moons = draw.randrange(9, 40), draw.randrange(2, 9)
    text = (
        f"The valley of {a} has rules of its own. Water boils there at {heat} degrees Celsius, and spiders have {legs} "
        f"legs. {moons} moons stand above it. Its register was begun in {year} by {clerk}; entry {number} is that of "
        f"{smith}, who came from {b}. Whoever comes from {b} is led by {guide}. The road to {c} is closed in winter."
    )
    kind = n % 4
    question, answers = (
        (f"What is the number of the entry of {smith}?", [number]),
        draw.choice([
            (f"At how many degrees Celsius does water boil in the valley of {a}?", [str(heat)]),
            (f"How many legs do spiders have in the valley of {a}?", [str(legs)]),
            (f"How many moons stand above the valley of {a}?", [str(moons)]),
        ]),
        (f"Who leads {smith}?", [guide]),
        draw.choice([
            (f"In which year was {smith} born?", [NOT_STATED]),
            (f"How long is the road to {c}?", [NOT_STATED]),
            (f"What is the name of the river in the valley of {a}?", [NOT_STATED]),
        ]),
    )[kind]  # fmt: skip
    sentences = (
        f"{text}\n\n{question}\nAnswer from this text alone, with the number or name and nothing else. "
        f"If the text does not say it, answer {NOT_STATED}."
    )
    which = ("fact", "contradicting", "two_steps", "missing")[kind]
    score: dict[str, Any] = {"kind": "exact", "answer": [NOT_STATED, f"{NOT_STATED}."], "case": False}
    if which != "missing":  # a few words around the answer are no fault
        score = {"kind": "all", "of": [{"kind": "contains", "all": answers}, {"kind": "words", "max": 12}]}
    slices = ("grounded", f"grounded:{which}")
    return {"asked": sentences, "slices": slices, "score": score}


# --- suites ---


NAME = "contracts"
EACH = 20
SEED = 1
MAX_TOKENS = 768
KINDS: Mapping[str, Callable[[Random, int], dict[str, Any]]] = {
    "json": json_item,
    "copy": copy_item,
    "arithmetic": arithmetic_item,
    "grounded": grounded_item,
    "instructions": instructions_item,
    "refusals": refusals_item,
    "languages": languages_item,
    "long": long_item,
}


def contracts(name: str = NAME, each: int = EACH, max_tokens: int | None = None) -> Questions:
    """All kinds of questions, or the one of this name; `each` of every kind."""
    kinds = KINDS if name == NAME else {name: KINDS[name]}
    items = tuple(_item(name, kind, make, n, max_tokens) for kind, make in kinds.items() for n in range(each))
    return Questions(name, items, score_of, {"kinds": list(kinds), "each": each, "seed": SEED})


def _item(suite: str, kind: str, make: Callable[[Random, int], dict[str, Any]], n: int, limit: int | None) -> Item:
    contract = make(Random(f"{SEED} {kind} {n}"), n)
    messages = ({"role": "user", "content": contract["asked"]},)
    tokens = limit or contract.get("max_tokens", MAX_TOKENS)
    return Item(
        f"{kind}-{n}",
        suite,
        messages,
        contract["slices"],
        (),
        tokens,
        contract["score"],
        cluster=contract.get("cluster"),
    )
