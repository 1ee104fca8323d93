"""A recipe with changes in one word, so that several variations of it stand side by side: ``gates-8bit:bits=4``.

    NAME[:KEY=VALUE[,KEY=VALUE]…]        KEY is bits, group_size, mode, method or unaligned

The keys are those of `plan` and `convert`'s options, and mean the same: ``gates-8bit:bits=4,group_size=32`` is
``-r gates-8bit --bits 4 --group-size 32``, ``gates-8bit:group_size=128,64`` is ``-r gates-8bit --group-size 128,64``.
`compare` and `sweep` take recipes so. What needs a rule of its own is written as a .toml file that extends a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import RecipeError
from ...words.text import listed, nearest
from .recipe import Recipe, load_recipe
from .rules import group_size_of, group_size_text

FORMAT_KEYS = ("bits", "group_size", "mode", "method")  # change the default format
KEYS = (*FORMAT_KEYS, "unaligned")


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
    for key, value in pairs_of(changes):
        if key not in KEYS:
            problems.append(f"{text}: unknown key {key!r}{nearest(key, KEYS)}; valid: {', '.join(KEYS)}")
        elif key in arguments:
            problems.append(f"{text}: {key} is given twice")
        elif key == "group_size" and all(size.strip().isdecimal() for size in value.split(",")):
            arguments[key] = group_size_of([int(size) for size in value.split(",")])
        elif key == "bits" and value.isdecimal():
            arguments[key] = int(value)
        elif key in ("bits", "group_size"):
            more = ", or several with commas" if key == "group_size" else ""
            problems.append(f"{text}: {key} is a whole number{more}, not {value!r}")
        else:
            arguments[key] = value
    if problems:
        raise RecipeError(listed(problems))
    return name, arguments


def pairs_of(text: str) -> list[tuple[str, str]]:
    """Split ``bits=8,group_size=128,64`` into keys and values; a word without "=" goes on with the value before it."""
    changes: list[tuple[str, str]] = []
    for word in text.split(","):
        key, equals, value = (part.strip() for part in word.partition("="))
        if changes and not equals:
            changes[-1] = (changes[-1][0], f"{changes[-1][1]},{key}")
        else:
            changes.append((key.replace("-", "_"), value))
    return changes


def changes_text(changes: Mapping[str, Any]) -> str:
    """Write changes as a variation has them. ``changes_text({"group_size": (128, 64)}) == "group_size=128,64"``."""
    words = ((key, group_size_text(v) if key == "group_size" else v) for key, v in changes.items())
    return ",".join(f"{key}={value}" for key, value in words)


def load_variation(text: str, *, sets: Sequence[str] = (), **overrides: Any) -> Recipe:
    """Load a recipe with its changes; `sets` and `overrides` (as of `load_recipe`) hold where it says nothing itself.

    Raises RecipeError with every mistake.
    """
    name, changes = split_variation(text)
    shared = {key: value for key, value in overrides.items() if value is not None}
    return load_recipe(name, sets=sets, **{**shared, **changes})


def load_variations(texts: Sequence[str], *, sets: Sequence[str] = (), **overrides: Any) -> list[Recipe]:
    """Load several recipes, each as `load_variation`; a recipe without a default format keeps that beside others.

    So ``-r none -r gates-8bit --group-size 32`` changes gates-8bit alone. Where no recipe has a default to change it
    raises RecipeError, as for one.
    """
    bare = {text for text in texts if _is_bare(text)}
    if len(bare) == len(set(texts)):
        bare = set()
    rest = {key: value for key, value in overrides.items() if key not in FORMAT_KEYS}
    return [load_variation(text, sets=sets, **(rest if text in bare else overrides)) for text in texts]


def _is_bare(text: str) -> bool:
    """Whether a recipe leaves what no rule matches as it is; False where it cannot be read, which loading will say."""
    try:
        return load_recipe(split_variation(text)[0]).default is None
    except RecipeError:
        return False


def name_of(text: str, recipe: Recipe) -> str:
    """What a variation is called beside others: the recipe's name with its own changes.

    >>> name_of("gates-8bit:bits=4", load_variation("gates-8bit:bits=4"))
    'gates-8bit:bits=4'
    """
    _, changes = split_variation(text)
    words = changes_text(changes)
    return f"{recipe.name}:{words}" if words else recipe.name
