"""Our own contract suites: eight kinds of questions, made from a seed that never changes.

`contracts` is all of them, each kind a slice; each kind is also a suite of its own name. Every item is drawn from its
kind and number alone, so asking for more items keeps the earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from ..items import Item, Questions
from .contract_data import arithmetic_item, copy_item, grounded_item, json_item
from .contract_texts import instructions_item, languages_item, long_item, refusals_item
from .scoring import score_of

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
    made = make(Random(f"{SEED} {kind} {n}"), n)
    messages = ({"role": "user", "content": made["asked"]},)
    tokens = limit or made.get("max_tokens", MAX_TOKENS)
    return Item(f"{kind}-{n}", suite, messages, made["slices"], (), tokens, made["score"], cluster=made.get("cluster"))
