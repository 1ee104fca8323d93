"""Recipes of thousands of rules: read, checked and refused in seconds, with the same answers as for few."""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import pytest

from mlxquant.errors import RecipeError
from mlxquant.plan.recipe.recipe import parse_recipe
from mlxquant.plan.recipe.rules import Covering, Match, Rule
from mlxquant.words.layers import parse_layers

HEAD = 'name = "m"\nsummary = "s"\nreference = "r"\n[quantize]\nbits = 8\ngroup_size = 32\n'


def rules(matches: list[str]) -> str:
    return HEAD + "".join(f'[[rules]]\nmatch = {{{match}}}\nbits = 4\nreason = "r"\n' for match in matches)


def test_five_thousand_rules_are_read_in_seconds() -> None:
    text = rules([f'path = "*.{i}.v_proj"' for i in range(5000)])
    began = time.monotonic()
    assert len(parse_recipe(text).rules) == 5000
    assert time.monotonic() - began < 10


def test_of_thousands_of_equal_rules_the_first_is_named() -> None:
    began = time.monotonic()
    with pytest.raises(RecipeError, match="never applies: rule 1 before it"):
        parse_recipe(rules(['role = "attention", layers = "0..3"'] * 3000))
    assert time.monotonic() - began < 10


def test_the_rule_that_covers_another_is_the_one_that_comparing_each_with_each_gives() -> None:
    fields: dict[str, list[Any]] = {
        "role": [(), ("router",), ("attention", "router")],
        "layer_type": [(), ("full_attention",)],
        "layers": [(), tuple(parse_layers("0")), tuple(parse_layers("0")) + tuple(parse_layers("1"))],
        "path": [(), ("*.a",), ("*.a", "*.b")],
    }
    matches = [Match(**dict(zip(fields, values, strict=True))) for values in product(*fields.values())]
    for order in (matches, matches[::-1]):
        covering, earlier = Covering(), list[Rule]()
        for index, match in enumerate(order, 1):
            rule = Rule(match, "r", index=index)
            expected = next((e for e in earlier if e.match.covers(match)), None)
            assert covering.first(rule) == expected
            if expected is None:
                covering.add(rule)
            earlier.append(rule)
