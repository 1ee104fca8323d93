"""A recipe with changes in one word, so that several variations of it stand side by side: ``gates-8bit:bits=4``.

    NAME[:KEY=VALUE[,KEY=VALUE]…]        KEY is bits, group_size, mode or unaligned

The keys are those of `plan` and `convert`'s options, and mean the same: ``gates-8bit:bits=4,group_size=32`` is
``-r gates-8bit --bits 4 --group-size 32``. `compare` and `sweep` take recipes so. What needs a rule of its own is
written as a .toml file that extends a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import RecipeError
from ...words.text import listed, nearest
from .recipe import Recipe, load_recipe

KEYS = ("bits", "group_size", "mode", "unaligned")
_NUMBERS = ("bits", "group_size")


def split_variation(text: str) -> tuple[str, dict[str, Any]]:
    """Split a word into the recipe's name or path and its changes, as arguments of `load_recipe`.

    Raises RecipeError for a change that means nothing.

    >>> split_variation("gates-8bit:bits=4,group-size=32")
    ('gates-8bit', {'bits': 4, 'group_size': 32})
    """
    name, colon, changes = text.rpartition(":")
    if not colon or "=" not in changes:  # a path may have a colon of its own
        return text, {}
    arguments: dict[str, Any] = {}
    problems = []
    for change in changes.split(","):
        key, _, value = (part.strip() for part in change.partition("="))
        key = key.replace("-", "_")
        if key not in KEYS:
            problems.append(f"{text}: unknown key {key!r}{nearest(key, KEYS)}; valid: {', '.join(KEYS)}")
        elif key in arguments:
            problems.append(f"{text}: {key} is given twice")
        elif key in _NUMBERS and not value.isdecimal():
            problems.append(f"{text}: {key} is a whole number, not {value!r}")
        else:
            arguments[key] = int(value) if key in _NUMBERS else value
    if problems:
        raise RecipeError(listed(problems))
    return name, arguments


def load_variation(text: str, *, sets: Sequence[str] = (), **overrides: Any) -> Recipe:
    """Load a recipe with its changes; `sets` and `overrides` (as of `load_recipe`) hold where it says nothing itself.

    Raises RecipeError with every mistake.
    """
    name, changes = split_variation(text)
    shared = {key: value for key, value in overrides.items() if value is not None}
    return load_recipe(name, sets=sets, **{**shared, **changes})


def name_of(text: str, recipe: Recipe) -> str:
    """What a variation is called beside others: the recipe's name with its own changes.

    >>> name_of("gates-8bit:bits=4", load_variation("gates-8bit:bits=4"))
    'gates-8bit:bits=4'
    """
    _, changes = split_variation(text)
    words = ",".join(f"{key}={value}" for key, value in changes.items())
    return f"{recipe.name}:{words}" if words else recipe.name
