"""Which recipes a sweep tries, and how a comparison's candidates form families whose bits go down.

A family is what is the same but for the bits of the default: rules, group size, mode. It is read from the recipes in
the record, not from names, so that gates-8bit at 4 bits and a recipe of its own with the same rules are one family,
whoever compared them. A build on disk is a family of its own, of unknown bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UsageError
from ..plan.recipe.variation import KEYS, changes_text, pairs_of, split_variation
from ..records.measurements import measurement
from ..validate.evidence import NOISE_FLOOR, table_of

# What a rule is told by: reasons and origins are words, and change no byte
_WORDS = ("origin", "index", "reason")
_KL, _TOP = "kl_nats", "same_top"


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One candidate of a comparison: its size and what it costs. `kl` and `same_top` are measurements.

    `active` are the bytes that are read for one token; None where they are unknown.
    """

    name: str
    family: str
    bits: int | None
    nbytes: int | None
    bpw: float | None
    active: int | None
    kl: Mapping[str, Any] | None
    same_top: Mapping[str, Any] | None
    entry: Mapping[str, Any]

    @property
    def damage(self) -> float | None:
        """Mean KL, nats a token."""
        return None if self.kl is None else self.kl["estimate"]


def split_words(text: str) -> list[str]:
    """Recipes from a list with commas, which stand in a recipe's changes too.

    >>> split_words("gates-8bit:bits=4,group_size=32,uniform-8bit")
    ['gates-8bit:bits=4,group_size=32', 'uniform-8bit']
    """
    words: list[str] = []
    for part in (p.strip() for p in text.split(",")):
        going_on = part.isdecimal() or ("=" in part and ":" not in part.partition("=")[0])
        if words and going_on:
            words[-1] += f",{part}"
        elif part:
            words.append(part)
    return words


def variations(recipes: Sequence[str], bits: Sequence[int], group_sizes: Sequence[int] = ()) -> list[str]:
    """Every recipe at every bits, and at every group size if several are given, most bits first.

    A recipe that names its own bits or mode is taken as it is. Raises UsageError where nothing is left to try, and
    RecipeError for changes that mean nothing.

    >>> variations(["gates-8bit", "deepseek-8bit:bits=8"], [4, 8])
    ['gates-8bit:bits=8', 'gates-8bit:bits=4', 'deepseek-8bit:bits=8']
    """
    if not recipes:
        raise UsageError("nothing to sweep: give --recipes, such as gates-8bit,uniform-8bit")
    sizes: list[int | None] = [*sorted(set(group_sizes))] if len(set(group_sizes)) > 1 else [None]
    widths: list[int | None] = [*sorted(set(bits), reverse=True)] or [None]
    return list(dict.fromkeys(_changed(recipe, b, g) for recipe in recipes for g in sizes for b in widths))


def _changed(recipe: str, bits: int | None, group_size: int | None) -> str:
    name, own = split_variation(recipe)
    if bits is not None and not own.keys() & {"bits", "mode"}:
        own["bits"] = bits
    if group_size is not None and not own.keys() & {"group_size", "mode"}:
        own["group_size"] = group_size
    changes = changes_text({key: own[key] for key in KEYS if key in own})
    return f"{name}:{changes}" if changes else name


def candidates_of(record: Mapping[str, Any]) -> list[SweepPoint]:
    """The candidates of a comparison's record, the smallest first; the noise floor is none."""
    points, families = [], dict[str, str]()
    for entry in record["candidates"]:
        if entry.get("kind") == NOISE_FLOOR:
            continue
        key, bits = _family(entry)
        families.setdefault(key, _without_bits(str(entry["name"])))
        points.append(_point(entry, families[key], bits))
    return sorted(_apart(points), key=lambda c: (c.nbytes is None, c.nbytes or 0, c.active or 0, c.name))


def noise_floor_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The mean KL of the noise floor, None where it was not measured."""
    entry = next((e for e in record["candidates"] if e.get("kind") == NOISE_FLOOR), None)
    kl = None if entry is None else measurement(entry, _KL)
    return kl if kl is not None and kl["estimate"] is not None else None


def _point(entry: Mapping[str, Any], family: str, bits: int | None) -> SweepPoint:
    return SweepPoint(
        name=str(entry["name"]),
        family=family,
        bits=bits,
        nbytes=_number(entry.get("bytes"), int),
        bpw=_number(entry.get("bpw"), float, int),
        active=_number(entry.get("active_bytes_per_token"), int),
        kl=measurement(entry, _KL),
        same_top=measurement(entry, _TOP),
        entry=entry,
    )


def _family(entry: Mapping[str, Any]) -> tuple[str, int | None]:
    """A family's key, and the bits of this member."""
    recipe = table_of(entry.get("recipe"))
    default, rules = table_of(recipe.get("quantize")), recipe.get("rules")
    if not default or not isinstance(rules, list):
        return f"alone: {entry['name']}", None
    same = {k: v for k, v in default.items() if k != "bits"}
    essence = [{k: v for k, v in table_of(rule).items() if k not in _WORDS} for rule in rules]
    key = json.dumps([same, essence, recipe.get("unaligned")], sort_keys=True)
    return key, _number(default.get("bits"), int)


def _without_bits(name: str) -> str:
    """A variation's name without its bits. ``"gates-8bit:bits=4,group_size=32"`` -> ``"gates-8bit:group_size=32"``."""
    name, colon, changes = name.rpartition(":")
    if not colon or "=" not in changes:
        return f"{name}{colon}{changes}"
    left = changes_text({key: value for key, value in pairs_of(changes) if key != "bits"})
    return f"{name}:{left}" if left else name


def _apart(points: Sequence[SweepPoint]) -> Iterator[SweepPoint]:
    """Give two families of one name numbers."""
    keys: dict[str, dict[str, int]] = {}
    for c in points:
        key, _ = _family(c.entry)
        number = keys.setdefault(c.family, {}).setdefault(key, len(keys[c.family]) + 1)
        yield c if number == 1 else replace(c, family=f"{c.family} ({number})")


def _number(value: Any, *types: type) -> Any:
    return value if type(value) in types else None
