"""Rules: what they match, what they ask for, and how they are written.

A rule is data. It names modules by role, layer type, layers and path (all that are given must hold; none given
matches every module) and asks for one thing: to keep them at source precision, to quantize them in a format, or
to take the answer of someone else (`use`).

A rule is written as a TOML table, or as `MATCH:ACTION` behind `--set`. Reading one reports every mistake, never only
the first: each function adds to a list of problems, one a line, that say where, what was found and what is valid.
Which rule wins for a module, and whether the model allows it, is decided in `decide`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from ...words.formats import METHODS, MODE_DEFAULTS, MODES, RTN, FormatChoice
from ...words.layers import Span, parse_layers, select_layers
from ...words.modules import LAYER_TYPE_WORDS, LAYER_TYPES, ROLES, Module
from ...words.text import nearest, unknown_keys

# --- rules ---

GroupSize = int | tuple[int, ...]  # one, or several of which the first that divides a module's input is taken


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a recipe, for itself or for a model: the place, and the reason without it."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


# a layer with attention and a linear mixer side by side counts as either, and by its own name
HYBRID = "hybrid"
HYBRID_PARTS = ("full_attention", "linear_attention")

SET_ORIGIN = "--set"


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule applies to. An empty field does not narrow; a field with several values means any of them."""

    role: tuple[str, ...] = ()
    layer_type: tuple[str, ...] = ()
    layers: tuple[Span, ...] = ()
    path: tuple[str, ...] = ()

    def hits(self, modules: Sequence[Module], n_layers: int) -> list[Module]:
        """The modules that match, in their order."""
        layers = select_layers(self.layers, n_layers)
        types = {*self.layer_type, *((HYBRID,) if set(HYBRID_PARTS) & set(self.layer_type) else ())}
        pattern = glob_pattern(self.path)
        return [
            m
            for m in modules
            if (not self.role or m.role in self.role)
            and (not self.layer_type or m.layer_type in types)
            and (not self.layers or m.layer in layers)
            and (not self.path or pattern.match(m.path))
        ]

    @property
    def names(self) -> bool:
        """Whether it singles modules out by role or path, rather than sweeping over whatever is there."""
        return bool(self.role) or any(set(pattern) - set("*?") for pattern in self.path)

    def covers(self, other: Match) -> bool:
        """Whether everything that `other` can match in any model, this matches too; False where unsure."""
        pairs = (
            (self.role, other.role),
            (self.layer_type, other.layer_type),
            (self.layers, other.layers),
            (self.path, other.path),
        )
        return all(not mine or (theirs and set(theirs) <= set(mine)) for mine, theirs in pairs)

    def as_dict(self) -> dict[str, Any]:
        """The TOML form: a value alone where there is one, else a list."""
        layers: tuple[int | str, ...] = tuple(
            int(s.text) if s.text.lstrip("-").isdigit() else s.text for s in self.layers
        )
        lists = {"role": self.role, "layer_type": self.layer_type, "layers": layers, "path": self.path}
        return {key: v[0] if len(v) == 1 else list(v) for key, v in lists.items() if v}

    def __str__(self) -> str:
        words = []
        for key, value in self.as_dict().items():
            values = value if isinstance(value, list) else [value]
            words.append(f"{key} {' or '.join(str(v) for v in values)}")
        return ", ".join(words) or "every module"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `match`, then exactly one of `keep`, a format (what is None comes from [quantize]), or `use`.

    `use` is "model" (what the model class's own quant_predicate answers), "default" (what [quantize] says, to except
    modules from a later rule or to say that the default is meant) or "source" (the bits that a packed source has, and
    floats where it has floats). `optional` allows the rule to
    find nothing that it can act on. `origin` is the recipe that holds it, or "--set"; `index` counts from 1.
    """

    match: Match
    reason: str
    keep: bool = False
    bits: int | None = None
    group_size: GroupSize | None = None
    mode: str | None = None
    method: str | None = None
    use: str | None = None
    optional: bool = False
    origin: str = ""
    index: int = 1

    @property
    def label(self) -> str:
        """How messages and audits name it: ``gates-8bit#1``."""
        return f"{self.origin}#{self.index}"

    @property
    def place(self) -> str:
        """The label with what it matches, where a message is about the rule: ``gates-8bit#1 (role router)``."""
        return f"{self.label} ({self.match})"

    def format(self, default: FormatChoice | None) -> FormatChoice:
        """The format it asks for where it gives bits, group size or mode."""
        return merged(default, self.bits, self.group_size, self.mode, self.method)

    def action(self) -> dict[str, Any]:
        """What it asks for, in the TOML form."""
        if self.keep:
            return {"keep": True}
        sizes = list(self.group_size) if isinstance(self.group_size, tuple) else self.group_size
        keys = {"bits": self.bits, "group_size": sizes, "mode": self.mode, "method": self.method, "use": self.use}
        return {key: value for key, value in keys.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """The rule in full; `parse_rule` reads it back."""
        optional = {"optional": True} if self.optional else {}
        match = {"match": self.match.as_dict(), **self.action(), **optional, "reason": self.reason}
        return {**match, "origin": self.origin, "index": self.index}


class Covering:
    """Rules of a file so far, to ask which of them leaves a later one nothing; fast also for thousands.

    A rule that covers another names, in each field that it has, all that the other names there. So it stands in the
    table of one of its fields, the one that tells most apart, under every value that it has in it.
    """

    def __init__(self) -> None:
        self._by_value: dict[object, list[Rule]] = {}
        self._of_all: Rule | None = None

    def add(self, rule: Rule) -> None:
        """Take a rule as the latest."""
        fields = _fields(rule.match)
        if not fields:
            self._of_all = self._of_all or rule
            return
        name, values = fields[0]
        for value in values:
            self._by_value.setdefault((name, value), []).append(rule)

    def first(self, rule: Rule) -> Rule | None:
        """The earliest rule that covers this one, None where there is none."""
        places = [(name, values[0]) for name, values in _fields(rule.match)]
        near = (earlier for place in places for earlier in self._by_value.get(place, ()))
        covering = [earlier for earlier in near if earlier.match.covers(rule.match)]
        if self._of_all is not None:
            covering.append(self._of_all)
        return min(covering, key=lambda earlier: earlier.index, default=None)


def _fields(match: Match) -> list[tuple[str, tuple[object, ...]]]:
    fields = (("path", match.path), ("layers", match.layers), ("layer_type", match.layer_type), ("role", match.role))
    return [(name, tuple(values)) for name, values in fields if values]


def merged(
    base: FormatChoice | None,
    bits: int | None,
    group_size: GroupSize | None,
    mode: str | None,
    method: str | None = None,
) -> FormatChoice:
    """Lay what is given over `base`. A change of mode takes the mode's own bits and group size, as in mlx.

    ``merged(FormatChoice(8, (128,)), None, None, "mxfp4") == FormatChoice(4, (32,), "mxfp4")``
    """
    mode, method = mode or (base.mode if base else "affine"), method or (base.method if base else RTN)
    if base is None or base.mode != mode:
        default_group, default_bits = MODE_DEFAULTS[mode]
        base = FormatChoice(default_bits, (default_group,), mode)
    sizes = (group_size,) if isinstance(group_size, int) else group_size
    return FormatChoice(bits or base.bits, sizes or base.group_sizes, mode, method)


def group_size_of(value: Any) -> GroupSize | None:
    """A checked group size as rules hold it: a list of one is that one. ``group_size_of([64]) == 64``."""
    if not isinstance(value, list | tuple):
        return value  # type: ignore[no-any-return]
    return value[0] if len(value) == 1 else tuple(value)


def group_size_text(value: GroupSize) -> str:
    """A group size as options have it. ``group_size_text((128, 64)) == "128,64"``."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def glob_pattern(globs: Iterable[str]) -> re.Pattern[str]:
    """One pattern that matches a whole path against any of the globs; `*` crosses dots, case counts."""
    return re.compile("|".join(translate(glob) for glob in globs))


# --- rule syntax ---


USES = ("model", "default", "source")
MATCH_KEYS = ("role", "layer_type", "layers", "path")
RULE_KEYS = ("match", "keep", "bits", "group_size", "mode", "method", "use", "reason", "optional")


def parse_rule(table: object, *, origin: str, index: int, where: str, problems: list[str]) -> Rule | None:
    """Read a rule from its TOML table. Adds every mistake to `problems`; None where there is one."""
    if not isinstance(table, dict):
        problems.append(f"{where}: a rule is a table, not {table!r}; write [[rules]]")
        return None
    mistakes = unknown_keys(table, RULE_KEYS, where)
    match = _match(table.get("match", {}), where, mistakes)
    mistakes += format_problems(table, where)
    for key in ("keep", "optional"):
        if not isinstance(table.get(key, False), bool):
            mistakes.append(f"{where}: {key} is true or false, not {table[key]!r}")
    use = table.get("use")
    if use is not None and use not in USES:
        mistakes.append(f"{where}: use is {' or '.join(USES)}, not {use!r}{nearest(use, USES)}")
    mistakes += _action_problems(table, where)
    reason = table.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        mistakes.append(f"{where}: every rule needs a reason; it ends up in the audit")
    problems += mistakes
    if mistakes:
        return None
    return Rule(
        match=match,
        reason=str(reason),
        keep=table.get("keep", False),
        bits=table.get("bits"),
        group_size=group_size_of(table.get("group_size")),
        mode=table.get("mode"),
        method=table.get("method"),
        use=use,
        optional=table.get("optional", False),
        origin=origin,
        index=index,
    )


def format_problems(table: Mapping[str, Any], where: str) -> list[str]:
    """What is wrong with bits, group_size, mode and method by themselves; their combination is checked later."""
    mistakes = []
    bits = table.get("bits")
    if bits is not None and not _is_count(bits):
        mistakes.append(f"{where}: bits is a whole number, not {bits!r}")
    if (problem := _group_size_problem(table.get("group_size"))) is not None:
        mistakes.append(f"{where}: {problem}")
    mode = table.get("mode")
    if mode is not None and not (isinstance(mode, str) and mode in MODES):
        mistakes.append(f"{where}: unknown mode {mode!r}{nearest(mode, MODES)}; mlx has {', '.join(MODES)}")
    method = table.get("method")
    if method is not None and not (isinstance(method, str) and method in METHODS):
        mistakes.append(f"{where}: unknown method {method!r}{nearest(method, METHODS)}; valid: {', '.join(METHODS)}")
    return mistakes


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _group_size_problem(value: object) -> str | None:
    """What is wrong with a group size, or with a list of them: one that an earlier one divides is never taken."""
    if value is None or _is_count(value):
        return None
    if not isinstance(value, list | tuple):
        return f"group_size is a whole number, or a list of them, not {value!r}"
    if not value or not all(_is_count(size) for size in value):
        return f"group_size is a list of whole numbers such as [128, 64, 32], not {list(value)!r}"
    for i, size in enumerate(value):
        if (first := next((earlier for earlier in value[:i] if size % earlier == 0), None)) is not None:
            return (
                f"group_size {list(value)!r}: {size} is never taken, since {first} before it divides all that it does;"
                " write the largest first, each once"
            )
    return None


def _action_problems(table: Mapping[str, Any], where: str) -> list[str]:
    keeps = table.get("keep") is True
    formats = [key for key in ("bits", "group_size", "mode", "method") if key in table]
    actions = (["keep"] if keeps else []) + formats + (["use"] if "use" in table else [])
    if not actions and table.get("keep") is False:
        return [f"{where}: keep = false means nothing; use=default gives the default, whatever a later rule says"]
    if not actions:
        return [f"{where}: it asks for nothing; give keep = true, bits, group_size, mode, method or use"]
    if len(actions) > len(formats) and len(actions) > 1:
        return [f"{where}: {' and '.join(actions)} exclude each other; give one"]
    return []


def _match(value: object, where: str, problems: list[str]) -> Match:
    """Read a match table; mistakes go to `problems`."""
    if not isinstance(value, dict):
        problems.append(f'{where}: match is a table such as {{ role = "router" }}, not {value!r}')
        return Match()
    where = f"{where}, match"
    problems += unknown_keys(value, MATCH_KEYS, where)
    roles = _words(value, "role", where, problems)
    types = _words(value, "layer_type", where, problems)
    types = tuple(dict.fromkeys(LAYER_TYPE_WORDS.get(name, name) for name in types))
    for key, names, valid in (("role", roles, ROLES), ("layer_type", types, LAYER_TYPES)):
        for name in names:
            if name not in valid:
                problems.append(f"{where}: unknown {key} {name!r}{nearest(name, valid)}; valid: {', '.join(valid)}")
    paths = _words(value, "path", where, problems)
    for path in paths:
        if "{" in path or "|" in path:
            problems.append(f"{where}: path {path!r} is a glob (* ? [abc]); for alternatives give a list")
    layers: tuple[Span, ...] = ()
    if "layers" in value:
        try:
            layers = parse_layers(value["layers"])
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return Match(roles, types, layers, paths)


def _words(table: Mapping[str, Any], key: str, where: str, problems: list[str]) -> tuple[str, ...]:
    """A text or a list of texts as a tuple."""
    value = table.get(key, [])
    words = value if isinstance(value, list) else [value]
    if (key in table and not words) or not all(isinstance(word, str) and word for word in words):
        problems.append(f"{where}: {key} is a text or a list of texts, not {value!r}")
        return ()
    return tuple(words)


def parse_set(text: str, *, index: int, problems: list[str]) -> Rule | None:
    """Read one `--set`, ``MATCH:ACTION``, as a rule.

    Both sides are keys of a rule, separated by commas; a word without a key goes on with the list before it:
    ``role=router,embedding:keep``, ``path=*.v_proj,layers=0..1/8,7/8..:bits=6,group_size=32``. An empty MATCH
    is every module.
    """
    where = f"--set {text!r}"
    match_text, colon, action_text = text.partition(":")
    if not colon:
        problems.append(f'{where}: no ":" found; write MATCH:ACTION, as in "role=attention:bits=6"')
        return None
    mistakes: list[str] = []
    match = {key: values[0] if len(values) == 1 else values for key, values in _pairs(match_text, where, mistakes)}
    action: dict[str, Any] = {}
    for key, values in _pairs(action_text, where, mistakes, flags=("keep", "optional")):
        if key in ("match", "reason"):
            mistakes.append(f"{where}: {key} cannot stand after the colon")
        words = [_value(word) for word in values]
        action[key] = words[0] if len(words) == 1 else words
    if mistakes:
        problems += mistakes
        return None
    table = {"match": match, "reason": f"asked for on the command line: --set {text}", **action}
    return parse_rule(table, origin=SET_ORIGIN, index=index, where=where, problems=problems)


def _value(word: str) -> int | bool | str:
    if word in ("true", "false"):
        return word == "true"
    return int(word) if re.fullmatch(r"-?\d{1,18}", word) else word


def _pairs(text: str, where: str, problems: list[str], flags: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """Split ``a=1,2,b=3`` into keys and their lists; a flag stands alone and means true."""
    pairs: list[tuple[str, list[str]]] = []
    for word in text.split(",") if text.strip() else []:
        key, equals, value = (part.strip() for part in word.partition("="))
        if equals and key.replace("-", "_") in (known for known, _ in pairs):
            problems.append(f"{where}: {key} is given twice")
        elif equals:
            pairs.append((key.replace("-", "_"), [value]))
        elif key in flags:
            pairs.append((key, ["true"]))
        elif pairs:
            pairs[-1][1].append(key)
        else:
            problems.append(f"{where}: {word!r} has no key; write key=value")
    return pairs
