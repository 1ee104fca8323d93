"""Recipes: which precision each module of a model gets, as data.

A recipe is a TOML file: a name, what it extends, the default in `[quantize]`, and ordered `[[rules]]`, each with
its reason. The first rule that matches a module decides; a recipe's own rules come before those of the recipe it
extends, and those given with `--set` come before both.

`--bits`, `--group-size` and `--mode` change the default in `[quantize]`, and with it whatever a rule leaves open.
A rule that gives its own bits has a reason to and stands (the loaded recipe's `notes` say so); `--set` overrules
rules. So ``mixed-4-6 --bits 5`` has 5 and 6 bits, ``mixed-4-6 --group-size 32`` group 32 throughout.

This module reads and checks recipes without a model; `decide` applies them to one.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import RecipeError
from ...words.formats import RTN, FormatChoice
from ...words.text import listed, unknown_keys
from .files import RecipeFile, Shipped, available, follow, parse_file, read_chain
from .rules import (
    Covering,
    Fault,
    GroupSize,
    Rule,
    format_problems,
    group_size_of,
    group_size_text,
    merged,
    parse_rule,
    parse_set,
)

__all__ = ["Recipe", "Shipped", "available", "load_recipe", "parse_recipe"]

SCHEMA = "mlxquant.recipe/1"
SCHEMA_2 = "mlxquant.recipe/2"  # with a list of group sizes or a method, which a reader of 1 does not understand
KEYS = ("name", "summary", "reference", "extends", "quantize", "rules")
QUANTIZE_KEYS = ("bits", "group_size", "mode", "method", "unaligned")
UNALIGNED = ("error", "keep")
MORE = "\n(fix these first; there may be more)"  # a rule with a mistake is not compared with others


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe with everything it extends and every override laid in.

    `default` is None where modules that no rule matches stay as they are. `unaligned` says what to do with a
    module whose input dimension the group size does not divide: "error", or "keep" it at source precision.
    `overrides` are the command line's words that changed it, `notes` what a user should know of them.
    """

    name: str
    summary: str
    reference: str
    default: FormatChoice | None
    rules: tuple[Rule, ...]
    unaligned: str = "error"
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of all that decides, as it is applied: equal hashes give equal formats for every model.

        Names and reasons are left out, so that a reworded reason is still the same recipe.
        """
        decides = {
            "quantize": self.default.as_dict() if self.default else False,
            "unaligned": self.unaligned,
            "rules": [{"match": _canonical(rule), **self._resolved(rule)} for rule in self.rules],
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def methods(self) -> frozenset[str]:
        """The methods that its default and its rules ask for."""
        own = (rule.format(self.default) for rule in self.rules if not rule.keep and not rule.use)
        return frozenset(choice.method for choice in (*([self.default] if self.default else []), *own))

    @property
    def _schema(self) -> str:
        choices = [
            *([self.default] if self.default else []),
            *(r.format(self.default) for r in self.rules if not r.keep),
        ]
        newer = any(len(choice.group_sizes) > 1 or choice.method != RTN for choice in choices)
        return SCHEMA_2 if newer else SCHEMA

    def _resolved(self, rule: Rule) -> dict[str, Any]:
        return rule.action() if rule.keep or rule.use else rule.format(self.default).as_dict()

    def as_dict(self) -> dict[str, Any]:
        """The recipe in full, for JSON; `from_dict` reads it back."""
        return {
            "schema": self._schema,
            "name": self.name,
            "summary": self.summary,
            "reference": self.reference,
            "sha256": self.sha256,
            "quantize": self.default.as_dict() if self.default else False,
            "unaligned": self.unaligned,
            "overrides": list(self.overrides),
            "notes": list(self.notes),
            "rules": [rule.as_dict() for rule in self.rules],
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Recipe:
        """Read what `as_dict` wrote. Raises RecipeError where it does not fit its own hash."""
        name = str(record.get("name", "?"))
        if record.get("schema") not in (SCHEMA, SCHEMA_2):
            expected = f"schema {SCHEMA} or {SCHEMA_2} expected"
            raise RecipeError(f"recipe {name}: {expected}, {record.get('schema')!r} found")
        problems: list[str] = []
        try:
            recipe = cls(
                name=name,
                summary=record["summary"],
                reference=record["reference"],
                default=FormatChoice.from_dict(record["quantize"]) if record["quantize"] else None,
                rules=_recorded_rules(record["rules"], name, problems),
                unaligned=record["unaligned"],
                overrides=tuple(record["overrides"]),
                notes=tuple(record["notes"]),
            )
            stated = record["sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"recipe {name}: its record is damaged: {error!r}") from error
        if problems:
            raise RecipeError(listed(problems))
        if recipe.sha256 != stated:
            raise RecipeError(f"recipe {name}: sha256 {stated} expected, {recipe.sha256} found; its record was edited")
        return recipe

    def __str__(self) -> str:
        return " ".join((self.name, *self.overrides))


def _recorded_rules(tables: Sequence[dict[str, Any]], name: str, problems: list[str]) -> tuple[Rule, ...]:
    rules = []
    for n, table in enumerate(tables, 1):
        stated = {key: value for key, value in table.items() if key not in ("origin", "index")}
        where = f"recipe {name}, rule {n}"
        rule = parse_rule(stated, origin=table["origin"], index=table["index"], where=where, problems=problems)
        rules += [rule] if rule else []
    return tuple(rules)


def _canonical(rule: Rule) -> dict[str, list[str]]:
    """A match with its order and spelling taken out."""
    return {
        key: sorted(str(v) for v in (value if isinstance(value, list) else [value]))
        for key, value in rule.match.as_dict().items()
    }


def load_recipe(
    name_or_path: str,
    *,
    bits: int | None = None,
    group_size: int | Sequence[int] | None = None,
    mode: str | None = None,
    method: str | None = None,
    sets: Sequence[str] = (),
    unaligned: str | None = None,
) -> Recipe:
    """Read a shipped recipe or a file (a name with a slash or ending in .toml), with the command line's overrides.

    Of several group sizes a module takes the first that divides its input. Raises RecipeError with every mistake in
    the recipe, in those it extends, and in the overrides, one a line.
    """
    problems: list[str] = []
    chain = read_chain(name_or_path, problems)
    recipe = _resolved(chain, problems)
    given = (("bits", bits), ("group_size", group_size), ("mode", mode), ("method", method))
    changes: dict[str, Any] = {key: value for key, value in given if value is not None}
    if mistakes := format_problems(changes, "command line"):
        problems += mistakes
        changes = {}
    elif group_size is not None:
        changes["group_size"] = group_size_of(group_size)
    if unaligned not in (None, *UNALIGNED):
        problems.append(f"--unaligned is {' or '.join(UNALIGNED)}, not {unaligned!r}")
    set_rules = [parse_set(text, index=i, problems=problems) for i, text in enumerate(sets, 1)]
    readable = [(text, rule) for text, rule in zip(sets, set_rules, strict=True) if rule]
    if recipe is None:
        raise RecipeError(listed(problems))
    sound = not problems
    recipe, faults = _overridden(recipe, changes, readable, unaligned)
    if sound or recipe.default:
        faults += _unsupported(recipe)
    problems += [str(fault) for fault in faults]
    if problems:
        raise RecipeError(listed(problems) + ("" if sound else MORE), reason=faults[0].reason if sound else None)
    return recipe


def parse_recipe(text: str, *, where: str = "recipe") -> Recipe:
    """Read a recipe from TOML text; what it extends must be shipped. Raises RecipeError with every mistake."""
    problems: list[str] = []
    try:
        recipe = _resolved(follow(parse_file(text, where), problems), problems)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not readable as TOML: {error}") from error
    if problems or recipe is None:
        raise RecipeError(listed(problems) + MORE)
    if faults := _unsupported(recipe):
        raise RecipeError(listed([str(fault) for fault in faults]), reason=faults[0].reason)
    return recipe


def _resolved(chain: Sequence[RecipeFile], problems: list[str]) -> Recipe | None:
    """Lay a chain of files into one recipe, own rules first."""
    default: FormatChoice | None = None
    stated, unaligned = False, "error"
    for file in reversed(chain):
        problems += unknown_keys(file.table, KEYS, file.path)
        quantize = file.table.get("quantize")
        if quantize is not None:
            stated = True
            default, unaligned = _quantize(quantize, default, unaligned, f"{file.path}, quantize", problems)
    if chain and not stated and "extends" not in chain[-1].table:
        problems.append(f"{chain[0].path}: no default; give [quantize] with bits, or quantize = false")
    rules: list[Rule] = []
    names: list[str] = []
    for file in chain:
        name = _text(file, "name", file.stem, problems)
        if name in names:
            problems.append(f"{file.path}: name {name!r} is also that of a recipe which extends it; choose another")
        names.append(name)
        rules += _rules(file, name, problems)
    if not chain:
        return None
    summary, reference = (_text(chain[0], key, "", problems) for key in ("summary", "reference"))
    return Recipe(names[0], summary, reference, default, tuple(rules), unaligned)


def _text(file: RecipeFile, key: str, missing: str, problems: list[str]) -> str:
    value = file.table.get(key, missing)
    if not isinstance(value, str):
        problems.append(f"{file.path}: {key} is a text, not {value!r}")
        return missing
    return value


def _rules(file: RecipeFile, name: str, problems: list[str]) -> list[Rule]:
    tables = file.table.get("rules", [])
    if not isinstance(tables, list):
        problems.append(f"{file.path}: rules is a list of tables; write [[rules]]")
        return []
    rules: list[Rule] = []
    covering = Covering()
    for i, table in enumerate(tables, 1):
        where = f"{file.path}, rule {i}"
        if rule := parse_rule(table, origin=name, index=i, where=where, problems=problems):
            if before := covering.first(rule):
                problems.append(f"{where}: never applies: rule {before.index} before it matches all of {rule.match}")
            else:  # what a covered rule covers, its coverer does too
                covering.add(rule)
            rules.append(rule)
    return rules


def _quantize(
    value: object, base: FormatChoice | None, unaligned: str, where: str, problems: list[str]
) -> tuple[FormatChoice | None, str]:
    """Lay one file's [quantize] over that of the recipe it extends."""
    if value is False:
        return None, unaligned
    if not isinstance(value, dict):
        problems.append(f"{where}: a table with bits, or false, not {value!r}")
        return base, unaligned
    faults = unknown_keys(value, QUANTIZE_KEYS, where) + format_problems(value, where)
    if value.get("unaligned", unaligned) not in UNALIGNED:
        faults.append(f"{where}: unaligned is {' or '.join(UNALIGNED)}, not {value['unaligned']!r}")
    if base is None and "bits" not in value and "mode" not in value:
        faults.append(f"{where}: bits is missing")
    problems += faults
    if faults:
        return base, unaligned
    default = merged(
        base, value.get("bits"), group_size_of(value.get("group_size")), value.get("mode"), value.get("method")
    )
    return default, value.get("unaligned", unaligned)


def _overridden(
    recipe: Recipe, changes: dict[str, Any], sets: Sequence[tuple[str, Rule]], unaligned: str | None
) -> tuple[Recipe, list[Fault]]:
    """Lay the command line's words over a recipe; `sets` are the texts behind `--set`, each with its rule."""
    default, notes, faults = recipe.default, list[str](), list[Fault]()
    sizes: GroupSize | None = changes.get("group_size")
    words = {**changes, **({"group_size": group_size_text(sizes)} if sizes is not None else {})}
    flags = [f"--{key.replace('_', '-')} {value}" for key, value in words.items()]
    if changes and default is None:
        reason = f"{recipe.name} has no default format to change; use another recipe or --set"
        faults.append(Fault(" ".join(flags), reason))
    elif changes:
        default = merged(default, changes.get("bits"), sizes, changes.get("mode"), changes.get("method"))
    for key in changes:
        own = [rule.label for rule in recipe.rules if getattr(rule, key) is not None]
        if own:
            notes.append(f"--{key.replace('_', '-')} changes the default; {', '.join(own)} give their own {key}")
    if unaligned is not None:
        flags.append(f"--unaligned {unaligned}")
    changed = replace(
        recipe,
        default=default,
        rules=(*(rule for _, rule in sets), *recipe.rules),
        unaligned=unaligned or recipe.unaligned,
        overrides=(*flags, *(f"--set {text}" for text, _ in sets)),
        notes=(*recipe.notes, *notes),
    )
    return changed, faults


def _unsupported(recipe: Recipe) -> list[Fault]:
    """Formats that mlx does not have, in the default and in rules."""
    faults = []
    if recipe.default and (problem := recipe.default.problem()):
        faults.append(Fault(f"{recipe}: default", problem))
    for rule in recipe.rules:
        if rule.keep:
            continue
        if rule.use in ("model", "default") and recipe.default is None:
            faults.append(Fault(rule.place, f"use = {rule.use!r} needs a default; give [quantize] bits"))
        elif not rule.use and (problem := (own := rule.format(recipe.default)).problem()):
            meant = not rule.mode and replace(own, mode="affine").problem() is None
            hint = "; the rule names no mode, so the default's holds, which may not be meant" if meant else ""
            faults.append(Fault(rule.place, f"{problem}{hint}"))
    return faults
